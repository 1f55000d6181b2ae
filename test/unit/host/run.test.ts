import test from "ava";
import { hasCode, PodvmError } from "../../../src/host/errors.js";
import { run } from "../../../src/host/run.js";

test("a program's output, and its input", async (t) => {
  const { stdout, stderr, code } = await run(["sh", "-c", "cat; echo err >&2"], { input: "in" });
  t.deepEqual([stdout, stderr, code], ["in", "err\n", 0]);
});

test("a failure tells command, exit code and what the program said", async (t) => {
  const err = await t.throwsAsync(run(["sh", "-c", "echo why >&2; exit 3"]), { instanceOf: PodvmError });
  t.regex(err?.message ?? "", /exit code 3: why/);
  t.is((await run(["sh", "-c", "exit 3"], { okCodes: [0, 3] })).code, 3);
});

test("no such program, too late, cancelled: each its own code", async (t) => {
  t.true(hasCode(await t.throwsAsync(run(["/nonexistent/program"])), "not_found"));
  t.true(hasCode(await t.throwsAsync(run(["sleep", "60"], { deadlineMs: 50 })), "deadline_exceeded"));
  const abort = new AbortController();
  const running = run(["sleep", "60"], { signal: abort.signal });
  abort.abort();
  t.true(hasCode(await t.throwsAsync(running), "cancelled"));
});

test("output beyond the bound is dropped, the program is not blocked by it", async (t) => {
  const { stdout } = await run(["sh", "-c", "head -c 300000 /dev/zero"], { maxOutput: 1000 });
  t.is(stdout.length, 1000);
});
