import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { runPlugin } from "../../../src/network/plugin.js";

/** Runs a plugin that is this shell script. */
async function runScript(t: ExecutionContext, script: string, deadlineMs = 20_000): Promise<unknown> {
  const dir = await mkdtemp(join(tmpdir(), "podvm-plugin-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const program = join(dir, "plugin");
  await writeFile(program, `#!/bin/sh\nDIR=${dir}\n${script}\n`);
  await chmod(program, 0o755);
  return runPlugin({
    command: "ADD",
    program,
    config: { name: "net", cniVersion: "1.0.0" },
    parameters: { CNI_CONTAINERID: "id" },
    env: { ...process.env, CNI_NETNS: "of the server" },
    deadlineMs,
  });
}

test("parameters come by environment, the configuration by standard input; the server's own CNI_* do not", async (t) => {
  const answer = await runScript(
    t,
    'printf \'{"got":"%s %s %s","config":\' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS"; cat; echo "}"',
  );
  t.deepEqual(answer, { got: "ADD id ", config: { name: "net", cniVersion: "1.0.0" } });
});

test("no output is no answer", async (t) => {
  t.is(await runScript(t, "cat >/dev/null"), undefined);
});

const errors: [string, string, object][] = [
  [
    "its own error, with code and details",
    `echo '{"cniVersion":"1.0.0","code":11,"msg":"try later","details":"no lease"}'; exit 1`,
    { code: "unavailable", message: /plugin \(ADD\): try later: no lease \(CNI error 11\)$/ },
  ],
  [
    "a configuration that it refuses",
    `echo '{"code":7,"msg":"bad vlan"}'; exit 1`,
    { code: "failed_precondition", message: /bad vlan \(CNI error 7\)/ },
  ],
  [
    "words on standard error",
    "echo no such bridge >&2; exit 3",
    { code: "internal", message: /exit code 3: no such bridge/ },
  ],
  ["silence", "exit 4", { code: "internal", message: /exit code 4 without a word/ }],
  ["a signal", "kill -9 $$", { code: "internal", message: /ended by SIGKILL/ }],
  ["an answer that is not JSON", "echo hello", { code: "internal", message: /its answer is not JSON: hello/ }],
  ["an endless answer", "yes", { code: "internal", message: /longer than 1048576 bytes/ }],
];
for (const [what, script, expected] of errors) {
  test(`a failing plugin: ${what}`, async (t) => {
    await t.throwsAsync(runScript(t, script), expected);
  });
}

test("a program that is not there", async (t) => {
  const call = {
    command: "DEL" as const,
    program: "/nonexistent/plugin",
    config: {},
    parameters: {},
    env: {},
    deadlineMs: 1000,
  };
  await t.throwsAsync(runPlugin(call), {
    code: "not_found",
    message: /CNI plugin \/nonexistent\/plugin \(DEL\): cannot be run/,
  });
});

test("at the deadline the plugin is killed, and what it started", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "podvm-plugin-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const pidFile = join(dir, "pid");
  await t.throwsAsync(runScript(t, `sleep 1000 & echo $! > ${pidFile}; wait`, 1500), {
    code: "deadline_exceeded",
    message: /killed after 1500 ms/,
  });
  const pid = (await readFile(pidFile, "utf8")).trim();
  t.not(pid, "");
  const state = await readFile(`/proc/${pid}/stat`, "latin1").catch(() => "gone");
  t.regex(state, /gone|\) Z /);
});

test("a process that the plugin leaves behind with its output open does not hold the answer up", async (t) => {
  const began = performance.now();
  t.deepEqual(await runScript(t, "sleep 30 & echo '{}'"), {});
  t.true(performance.now() - began < 25_000);
});
