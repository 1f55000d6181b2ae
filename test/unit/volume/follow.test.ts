/** Following a source by inotify: every change is told, none is put off for ever, and none is told after the end. */
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { sleep } from "../../../src/host/deadline.js";
import { Follower } from "../../../src/volume/follow.js";
import { atomicWrite } from "../../support/kubelet-volumes.js";
import { until } from "../../support/until.js";

async function followed(t: ExecutionContext, name: string, singleFile: boolean, work: () => Promise<void>) {
  const dir = await mkdtemp(join(tmpdir(), "podvm-follow-"));
  const stop = new AbortController();
  t.teardown(async () => {
    stop.abort();
    await rm(dir, { recursive: true, force: true });
  });
  const source = join(dir, name);
  return { source, stop, begin: () => new Follower(source, singleFile, work, stop.signal) };
}

test("a file that is written in place, replaced by rename, and made again", async (t) => {
  let calls = 0;
  const { source, stop, begin } = await followed(t, "file", true, async () => {
    calls++;
  });
  await writeFile(source, "1");
  begin();
  await until("the first look", 10_000, () => calls >= 1);
  await writeFile(source, "in place");
  await until("in place", 10_000, () => calls >= 2);
  await writeFile(`${source}.new`, "renamed");
  await rename(`${source}.new`, source);
  await until("by rename", 10_000, () => calls >= 3);
  await rm(source);
  await sleep(100);
  const before = calls;
  await writeFile(source, "again");
  await until("made again", 10_000, () => calls > before);
  stop.abort();
  const last = calls;
  await writeFile(source, "after the end");
  await sleep(200);
  t.is(calls, last);
});

test("work that fails is done again; changes during the work are told after it", async (t) => {
  let fail = true;
  let running = 0;
  let done = 0;
  const { source, begin } = await followed(t, "folder", false, async () => {
    t.is(++running, 1, "one at a time");
    await sleep(50);
    running--;
    if (fail) throw new Error("not yet");
    done++;
  });
  await atomicWrite(source, { key: "1" });
  begin();
  await sleep(200);
  fail = false;
  await atomicWrite(source, { key: "2" });
  await until("done after all", 20_000, () => done >= 1);
  const before = done;
  for (let n = 0; n < 20; n++) {
    await atomicWrite(source, { key: `${n}` });
    await sleep(10); // shorter than what it waits for writers to settle
  }
  await until("told while it went on", 10_000, () => done > before);
});
