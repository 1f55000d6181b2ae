import test from "ava";
import { sleep } from "../../../src/host/deadline.js";
import { KeyedLock } from "../../../src/host/keyed-lock.js";
import { silentLogger } from "../../../src/host/log.js";
import { UndoStack } from "../../../src/host/undo.js";

test("work under one key does not overlap and keeps its order; other keys do not wait", async (t) => {
  const lock = new KeyedLock();
  const log: string[] = [];
  const work = (name: string, ms: number) => async () => {
    log.push(`${name}+`);
    await sleep(ms);
    log.push(`${name}-`);
  };
  await Promise.all([lock.run("a", work("a1", 20)), lock.run("a", work("a2", 1)), lock.run("b", work("b", 1))]);
  t.deepEqual(
    log.filter((entry) => entry.startsWith("a")),
    ["a1+", "a1-", "a2+", "a2-"],
  );
  t.true(log.indexOf("b-") < log.indexOf("a1-"));
});

test("a failure frees the key", async (t) => {
  const lock = new KeyedLock();
  await t.throwsAsync(lock.run("a", () => Promise.reject(new Error("no"))));
  t.is(await lock.run("a", async () => 1), 1);
});

test("undo runs last first, goes on after a failure, and tells it", async (t) => {
  const undo = new UndoStack(silentLogger);
  const log: number[] = [];
  undo.add("1", async () => void log.push(1));
  undo.add("2", () => Promise.reject(new Error("stuck")));
  undo.add("3", async () => void log.push(3));
  const failures = await undo.rollback();
  t.deepEqual(log, [3, 1]);
  t.deepEqual(
    failures.map((err) => err.message),
    ["stuck"],
  );
  t.deepEqual(await undo.rollback(), []);
});
