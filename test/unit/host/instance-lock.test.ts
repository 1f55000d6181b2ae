import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { lockState } from "../../../src/host/instance-lock.js";

const module = new URL("../../../src/host/instance-lock.js", import.meta.url).href;

/** A process that tries to become the folder's server, and lives on until its input ends. */
function contender(folder: string) {
  const script = `const { lockState } = await import(${JSON.stringify(module)});
    const said = await lockState(${JSON.stringify(folder)}).then(() => "holds", (err) => err.code);
    process.stdout.write(said);
    process.stdin.resume();`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
  const said = once(child.stdout, "data").then(([data]) => String(data));
  return { child, said };
}

test("of servers that start at the same instant exactly one gets the state; after its death, however, the next does", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-lock-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const all = Array.from({ length: 4 }, () => contender(folder));
  t.teardown(() => {
    for (const { child } of all) child.kill("SIGKILL");
  });
  const said = await Promise.all(all.map((one) => one.said));
  t.deepEqual([...said].sort(), ["failed_precondition", "failed_precondition", "failed_precondition", "holds"]);
  const holder = all[said.indexOf("holds")]?.child;
  t.is(JSON.parse(await readFile(join(folder, "server.json"), "utf8")).pid, holder?.pid);

  const error = await t.throwsAsync(lockState(folder), { code: "failed_precondition" });
  t.regex(error?.message ?? "", new RegExp(`pid ${holder?.pid}: stop that one`));
  for (const { child } of all) {
    child.kill("SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }
  await lockState(folder);
  t.is(JSON.parse(await readFile(join(folder, "server.json"), "utf8")).pid, process.pid);
});

test("what a crash left half written names nobody", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-lock-"));
  t.teardown(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "server.json"), '{"pid":1');
  await lockState(folder);
  t.is(JSON.parse(await readFile(join(folder, "server.json"), "utf8")).pid, process.pid);
});
