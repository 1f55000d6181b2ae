import { appendFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { followLog } from "../../../src/cli/run/follow.js";
import { LogSplitter, parseLogLine } from "../../../src/cli/run/log-line.js";
import { sleep } from "../../../src/host/deadline.js";

const time = "2026-11-24T10:00:00.123456789Z";
const parse = (line: string) => {
  const record = parseLogLine(Buffer.from(line));
  return record && { ...record, text: record.text.toString() };
};

test("a full and a partial line", (t) => {
  t.deepEqual(parse(`${time} stdout F hello  world `), { stream: "stdout", partial: false, text: "hello  world " });
  t.deepEqual(parse(`${time} stderr P part`), { stream: "stderr", partial: true, text: "part" });
});

test("an empty line, with and without its space, and more tags", (t) => {
  t.deepEqual(parse(`${time} stdout F `), { stream: "stdout", partial: false, text: "" });
  t.deepEqual(parse(`${time} stdout F`), { stream: "stdout", partial: false, text: "" });
  t.deepEqual(parse(`${time} stdout P:x:y a`), { stream: "stdout", partial: true, text: "a" });
});

test("bytes that are no UTF-8 are kept", (t) => {
  const bytes = Buffer.from([0xff, 0x00, 0xfe]);
  t.deepEqual(parseLogLine(Buffer.concat([Buffer.from(`${time} stdout F `), bytes]))?.text, bytes);
});

test("what is no log line is no record", (t) => {
  for (const line of ["", "x", "x y", `${time} stdin F a`, `${time} stdout X a`, ` stdout F a`])
    t.is(parse(line), undefined, line);
});

test("records are found however the bytes are cut", (t) => {
  const whole = Buffer.from(
    `${time} stdout P ab\n${time} stderr F cd\nnonsense\n${time} stdout F ef\n${time} stdout F unfin`,
  );
  for (let step = 1; step < whole.length; step += 7) {
    const splitter = new LogSplitter();
    const texts: string[] = [];
    for (let at = 0; at < whole.length; at += step) {
      for (const record of splitter.push(whole.subarray(at, at + step))) texts.push(record.text.toString());
    }
    t.deepEqual(texts, ["ab", "cd", "ef"], `cut every ${step} bytes`);
    t.is(splitter.malformed, 1);
  }
});

test("a line without end does not grow without end", (t) => {
  const splitter = new LogSplitter();
  for (let i = 0; i < 40; i++) splitter.push(Buffer.alloc(64 << 10, 0x61));
  t.true(splitter.malformed >= 1);
});

test("following: the file comes later, grows, and is read to its end", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-follow-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = join(folder, "c.log");
  const got = { stdout: "", stderr: "" };
  const sink = (name: "stdout" | "stderr") => ({
    write: async (chunk: Buffer) => {
      got[name] += chunk.toString();
    },
  });
  let done = false;
  const following = followLog(path, { stdout: sink("stdout"), stderr: sink("stderr") }, () => done);
  await sleep(80);
  await writeFile(path, `${time} stdout F one\n${time} stderr F two\n${time} stdout P thr`);
  await sleep(80);
  await appendFile(path, `ee\n${time} stdout F four\n`);
  done = true;
  t.is(await following, 0);
  t.deepEqual(got, { stdout: "one\nthreefour\n", stderr: "two\n" });
});

test("following ends also where there never was a file, and with the sink's error", async (t) => {
  const sinks = { stdout: { write: async () => {} }, stderr: { write: async () => {} } };
  t.is(await followLog("/nonexistent/podvm.log", sinks, () => true), 0);
  const folder = await mkdtemp(join(tmpdir(), "podvm-follow-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = join(folder, "c.log");
  await writeFile(path, `${time} stdout F one\n`);
  const broken = { ...sinks, stdout: { write: () => Promise.reject(new Error("reader gone")) } };
  await t.throwsAsync(
    followLog(path, broken, () => false),
    { message: "reader gone" },
  );
});
