import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import test from "ava";
import { hasCode, PodvmError } from "../../../src/host/errors.js";
import { compressionOf, decompress } from "../../../src/image/layer/decompress.js";
import { Semaphore } from "../../../src/image/semaphore.js";
import { SharedWork } from "../../../src/image/shared-work.js";

test("shared work runs once; progress reaches all; it is aborted when the last caller leaves", async (t) => {
  const shared = new SharedWork<string, number>();
  let runs = 0;
  let aborted = false;
  const start = async (report: (progress: number) => void, signal: AbortSignal) => {
    runs += 1;
    signal.addEventListener("abort", () => {
      aborted = true;
    });
    await sleep(20);
    report(runs);
    await sleep(20);
    signal.throwIfAborted();
    return `result ${runs}`;
  };
  const seen: number[] = [];
  const leaver = new AbortController();
  const first = shared.join("k", start, (n) => seen.push(n), leaver.signal);
  const second = shared.join("k", start, (n) => seen.push(n));
  const third = shared.join("k", start, (n) => seen.push(n));
  leaver.abort(new PodvmError("cancelled", "left"));
  t.is((await t.throwsAsync(first)).message, "left");
  t.deepEqual(await Promise.all([second, third]), ["result 1", "result 1"]);
  t.deepEqual(seen, [1, 1]);

  aborted = false;
  const alone = new AbortController();
  const lonely = shared.join("k", start, () => {}, alone.signal);
  alone.abort();
  t.true(hasCode(await t.throwsAsync(lonely), "cancelled"));
  t.true(aborted);
  t.is(await shared.join("k", start, () => {}), "result 3");
  t.true(hasCode(await t.throwsAsync(shared.join("k", start, () => {}, alone.signal)), "cancelled"));
  t.is(runs, 3);
});

test("a failure reaches every caller, and the next call starts anew", async (t) => {
  const shared = new SharedWork<number, never>();
  let runs = 0;
  const start = async () => {
    runs += 1;
    await sleep(5);
    if (runs === 1) throw new PodvmError("unavailable", "first");
    return runs;
  };
  const calls = await Promise.allSettled([shared.join("k", start, () => {}), shared.join("k", start, () => {})]);
  t.true(calls.every(({ status }) => status === "rejected"));
  t.is(await shared.join("k", start, () => {}), 2);
});

test("a semaphore lets so many through, in order, and waiting can be given up", async (t) => {
  const semaphore = new Semaphore(2);
  let running = 0;
  let most = 0;
  const order: number[] = [];
  const work = (n: number) => async () => {
    running += 1;
    most = Math.max(most, running);
    order.push(n);
    await sleep(5);
    running -= 1;
    if (n === 1) throw new Error("its place is free again");
  };
  const abort = new AbortController();
  const all = [0, 1, 2, 3, 4].map((n) => semaphore.run(work(n), n === 3 ? abort.signal : undefined));
  abort.abort(new Error("given up"));
  const results = await Promise.allSettled(all);
  t.deepEqual(
    results.map(({ status }) => status === "fulfilled"),
    [true, false, true, false, true],
  );
  t.deepEqual(order, [0, 1, 2, 4]);
  t.is(most, 2);
});

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test("compression is told by the first bytes, even when they come one by one", async (t) => {
  const plain = Buffer.from("layer ".repeat(100_000));
  t.is(compressionOf(Buffer.from([0x28, 0xb5, 0x2f, 0xfd])), "zstd");
  for (const size of [1000, 1 << 20]) {
    t.deepEqual(await collect(decompress(pieces(plain, size), "none")), plain);
    t.deepEqual(await collect(decompress(pieces(gzipSync(plain), size), "none")), plain);
  }
  t.deepEqual(await collect(decompress(pieces(gzipSync(Buffer.from("ab")), 1), "none")), Buffer.from("ab"));
  t.is((await collect(decompress(pieces(Buffer.alloc(0), 1), "none"))).length, 0);
});

test("broken gzip, a source that fails, a consumer that stops, no zstd program", async (t) => {
  const packed = gzipSync(Buffer.from(Array.from({ length: 500_000 }, (_, i) => (i * i) % 251)));
  const cut = await t.throwsAsync(collect(decompress(pieces(packed.subarray(0, packed.length / 2), 1000), "none")));
  t.true(hasCode(cut, "invalid_argument"));
  const failing = (async function* () {
    yield packed.subarray(0, 100);
    throw new PodvmError("unavailable", "the registry went away");
  })();
  t.is((await t.throwsAsync(collect(decompress(failing, "none")))).message, "the registry went away");
  let closed = false;
  const endless = (async function* () {
    try {
      for (;;) yield Buffer.alloc(1000);
    } finally {
      closed = true;
    }
  })();
  for await (const chunk of decompress(endless, "none")) if (chunk.length > 0) break;
  t.true(closed);
  const zstd = Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), Buffer.alloc(100_000)]);
  const missing = await t.throwsAsync(collect(decompress(pieces(zstd, 1000), "/nonexistent/zstd")));
  t.true(hasCode(missing, "failed_precondition"));
});
