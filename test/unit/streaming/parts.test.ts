import test from "ava";
import { ByteQueue } from "../../../src/streaming/byte-queue.js";
import { parsePort } from "../../../src/streaming/forward-spdy.js";
import { encodeOutcome } from "../../../src/streaming/status.js";
import { LatestSize, SizeDecoder } from "../../../src/streaming/terminal-size.js";

test("a queue gives the bytes in order, tells what was taken, and ends", async (t) => {
  let taken = 0;
  const queue = new ByteQueue((bytes) => {
    taken += bytes;
  });
  queue.push(Buffer.from("ab"));
  queue.push(Buffer.from("cd"));
  t.is(taken, 0);
  t.is((await queue.next())?.toString(), "ab");
  t.is(taken, 2);
  queue.end();
  queue.push(Buffer.from("late"));
  t.is((await queue.next())?.toString(), "cd");
  t.is(await queue.next(), undefined);
  t.is(taken, 8, "what comes after the end counts as taken");
  t.is(queue.cost, 0);
});

test("a queue's cost counts small pieces as what they cost", (t) => {
  const queue = new ByteQueue(() => {});
  for (let i = 0; i < 100; i++) queue.push(Buffer.from("x"));
  t.true(queue.cost >= 100 * 100);
});

test("a failing queue throws for a reader that waits, a discarding one ends it", async (t) => {
  const failing = new ByteQueue(() => {});
  const waiting = failing.next();
  failing.fail(new Error("gone"));
  await t.throwsAsync(waiting, { message: "gone" });
  let taken = 0;
  const discarding = new ByteQueue((bytes) => {
    taken += bytes;
  });
  discarding.push(Buffer.from("abc"));
  discarding.discard();
  discarding.push(Buffer.from("de"));
  t.is(await discarding.next(), undefined);
  t.is(taken, 5);
});

test("sizes are found however the client's JSON is cut, and nonsense is skipped", (t) => {
  const decoder = new SizeDecoder();
  const all =
    '{"Width":80,"Height":24}\n{"Width":1}\nnonsense}{"Width":-1,"Height":5}{"Width":1e9,"Height":5}{"Width":132,"Height":50}';
  const sizes = [...all].flatMap((char) => decoder.push(Buffer.from(char)));
  t.deepEqual(sizes, [
    { width: 80, height: 24 },
    { width: 132, height: 50 },
  ]);
  decoder.push(Buffer.alloc(100_000, 0x61));
  t.deepEqual(decoder.push(Buffer.from('{"Width":5,"Height":6}')), [{ width: 5, height: 6 }]);
});

test("a reader of sizes gets the latest only", async (t) => {
  const latest = new LatestSize();
  latest.set({ width: 1, height: 1 });
  latest.set({ width: 2, height: 2 });
  const seen: number[] = [];
  for await (const { width } of latest) {
    seen.push(width);
    if (width === 2) setImmediate(() => latest.set({ width: 3, height: 3 }));
    else latest.end();
  }
  t.deepEqual(seen, [2, 3]);
});

test("outcomes in words and as status", (t) => {
  t.is(encodeOutcome({ exitCode: 0 }, "exec", false).length, 0);
  t.regex(encodeOutcome({ exitCode: 3 }, "exec", false).toString(), /exit status 3$/);
  t.regex(encodeOutcome({ error: new Error("why") }, "attach", false).toString(), /attaching to container: why$/);
  const status = JSON.parse(encodeOutcome({ error: new Error("x".repeat(1 << 20)) }, "exec", true).toString());
  t.is(status.reason, "InternalError");
  t.true(status.message.length < 5000);
});

test("ports", (t) => {
  t.is(parsePort("1"), 1);
  t.is(parsePort("65535"), 65535);
  for (const wrong of [undefined, "", "0", "65536", "-1", "80x", "1e3", " 80", "999999999999"]) {
    t.is(parsePort(wrong), undefined, wrong);
  }
});
