import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { status } from "@grpc/grpc-js";
import test, { type ExecutionContext } from "ava";
import { fromGrpc } from "../../../src/agent/errors.js";
import { MAX_LINE_CHUNKS } from "../../../src/agent/log-lines.js";
import { decodePosition, SLOT_BYTES } from "../../../src/agent/log-position.js";
import { OutputPump, type OutputPumpOptions } from "../../../src/agent/output-pump.js";
import { type OutputChunk, Stream } from "../../../src/gen/agent/v1/agent.js";
import { PodvmError } from "../../../src/host/errors.js";
import { silentLogger } from "../../../src/host/log.js";
import { chunksOf, expectedLog, FakeSpool, type Line, MortalFs, random, recorder } from "./support.js";

const MAX_LINE = 64;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "podvm-log-"));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

function options(dir: string, source: FakeSpool, extra: Partial<OutputPumpOptions> = {}): OutputPumpOptions {
  return {
    containerId: "c1",
    source,
    logPath: join(dir, "pod", "0.log"),
    positionPath: join(dir, "logpos", "c1"),
    logger: silentLogger,
    maxLine: MAX_LINE,
    ...extra,
  };
}

interface Output {
  chunks: OutputChunk[];
  expected: { stdout: string; stderr: string };
}

/** Both streams, mixed; a terminal has stdout only. */
function output(seed: number, bytes: number, tty = false): Output {
  const pick = random(seed);
  const text = () =>
    Buffer.from(Array.from({ length: pick(bytes) }, () => (pick(30) === 0 ? 10 : pick(20) === 0 ? 0 : 33 + pick(200))));
  const largest = 1 + pick(150);
  const out = chunksOf(text(), Stream.STREAM_STDOUT, () => 1 + pick(largest));
  const err = chunksOf(tty ? Buffer.alloc(0) : text(), Stream.STREAM_STDERR, () => 1 + pick(largest));
  const expected = {
    stdout: expectedLog(out, MAX_LINE, MAX_LINE_CHUNKS),
    stderr: expectedLog(err, MAX_LINE, MAX_LINE_CHUNKS),
  };
  const chunks: OutputChunk[] = [];
  const queues = [[...out], [...err]];
  while (queues.some((queue) => queue.length > 0)) {
    const next = queues[pick(2)]?.shift();
    if (next) chunks.push(next);
  }
  return { chunks, expected };
}

/** All files of a log, oldest first. Rotated ones are named 0.log.NNN here. */
async function readLog(dir: string): Promise<string> {
  const names = (await readdir(join(dir, "pod"))).sort();
  const rotated = names.filter((name) => name !== "0.log");
  const files = [...rotated, ...names.filter((name) => name === "0.log")];
  return (await Promise.all(files.map((name) => readFile(join(dir, "pod", name), "latin1")))).join("");
}

function byStream(log: string): { stdout: string; stderr: string; rest: string } {
  const found = { stdout: "", stderr: "", rest: "" };
  for (const line of log.match(/[^\n]*\n|[^\n]+$/g) ?? []) {
    const [, name] = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [PF] [^\n]*\n$/.exec(line) ?? [];
    found[(name as "stdout" | "stderr") ?? "rest"] += line;
  }
  return found;
}

async function check(t: ExecutionContext, dir: string, spool: FakeSpool, expected: Output["expected"], what: string) {
  const log = byStream(await readLog(dir));
  t.is(log.rest, "", what);
  t.is(log.stdout, expected.stdout, what);
  t.is(log.stderr, expected.stderr, what);
  t.deepEqual(spool.complaints, [], what);
}

test("output goes into the log, all of it is acknowledged, and drained says so", async (t) => {
  const dir = await folder(t);
  const { chunks, expected } = output(1, 5000);
  const spool = new FakeSpool(chunks);
  const pump = await OutputPump.open(options(dir, spool));
  t.true(await pump.drained(20_000));
  await check(t, dir, spool, expected, "plain");
  t.is(spool.eofAcked.size, 2);
  t.is((await stat(join(dir, "pod", "0.log"))).mode & 0o777, 0o640);
  await pump.close();

  // A later open finds everything done, and does not ask the agent again.
  const again = await OutputPump.open(options(dir, spool));
  t.true(again.complete);
  t.true(await again.drained(0));
  t.is(spool.connections, 1);
  await again.close();
});

test("killed at every single file operation, the log is complete in the end and nothing is in it twice", async (t) => {
  for (const seed of [3, 4]) {
    const { chunks, expected } = output(seed, 1500);
    for (let killAt = 1, alive = false; !alive; killAt++) {
      const dir = await folder(t);
      const spool = new FakeSpool(chunks);
      const pick = random(killAt);
      spool.batch = () => 1 + pick(5);
      const mortal = new MortalFs();
      mortal.killAt = killAt;
      mortal.half = (bytes) => pick(bytes + 1);
      try {
        const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs }));
        const done = await Promise.race([pump.drained(60_000), mortal.death.then(() => false)]);
        alive = done && !mortal.dead;
        await pump.close();
      } catch {
        t.true(mortal.dead);
      }
      const pump = await OutputPump.open(options(dir, spool));
      t.true(await pump.drained(60_000), `killed at ${killAt}`);
      await pump.close();
      await check(t, dir, spool, expected, `seed ${seed}, killed at ${killAt}`);
      await rm(dir, { recursive: true });
    }
  }
});

test("random output with many kills, broken streams and rotations: byte-exact", async (t) => {
  for (let seed = 10; seed < 34; seed++) {
    const dir = await folder(t);
    const tty = seed % 3 === 0;
    const { chunks, expected } = output(seed, 4000, tty);
    const spool = new FakeSpool(chunks);
    const pick = random(seed * 7);
    spool.batch = () => {
      if (pick(12) === 0) throw new PodvmError("unavailable", "the link broke");
      return 1 + pick(6);
    };
    let rotations = 0;
    const rotate = async () => {
      const to = join(dir, "pod", `0.log.${String(rotations++).padStart(3, "0")}`);
      await rename(join(dir, "pod", "0.log"), to).catch(() => {});
    };
    for (let life = 0, done = false; !done; life++) {
      const mortal = new MortalFs();
      if (life < 12) mortal.killAt = 3 + pick(30);
      mortal.half = (bytes) => pick(bytes + 1);
      try {
        const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs }));
        const drained = pump.drained(60_000);
        for (let i = 0; i < 4 && !mortal.dead; i++) {
          await new Promise((resolve) => setImmediate(resolve));
          if (pick(3) > 0) continue;
          await rotate();
          // Sometimes kubelet or we die before the log is reopened.
          if (pick(3) > 0) await Promise.race([pump.reopen(), mortal.death]).catch(() => {});
        }
        done = (await Promise.race([drained, mortal.death.then(() => false)])) && !mortal.dead;
        await pump.close();
      } catch {
        t.true(mortal.dead);
      }
    }
    await check(t, dir, spool, expected, `seed ${seed}`);
    if (tty) t.is(await readLog(dir), expected.stdout);
    await rm(dir, { recursive: true });
  }
});

test("a full disk makes the output wait, with one warning, and loses nothing", async (t) => {
  const dir = await folder(t);
  const lines: Line[] = [];
  const { chunks, expected } = output(80, 3000);
  const spool = new FakeSpool(chunks);
  const mortal = new MortalFs();
  let full = 0;
  mortal.fault = () => {
    full += 1;
    if (full <= 1) return "partial";
    return full <= 4 ? "ENOSPC" : undefined;
  };
  const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs, logger: recorder(lines) }));
  t.true(await pump.drained(30_000));
  await pump.close();
  await check(t, dir, spool, expected, "full disk");
  t.is(lines.filter((line) => line.level === "warn").length, 1);
  t.is(lines.filter((line) => line.level === "info" && /again/.test(line.message)).length, 1);
});

test("while the disk is full nothing is acknowledged, and reopening goes through at once", async (t) => {
  const dir = await folder(t);
  const { chunks, expected } = output(81, 3000);
  const spool = new FakeSpool(chunks);
  const mortal = new MortalFs();
  let full = true;
  let stuck = () => {};
  const isStuck = new Promise<void>((resolve) => {
    stuck = resolve;
  });
  let writes = 0;
  mortal.fault = () => {
    if (!full) return undefined;
    writes += 1;
    if (writes === 1) return "partial";
    stuck();
    return "ENOSPC";
  };
  const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs }));
  await isStuck;
  t.is(spool.acked[Stream.STREAM_STDOUT] + spool.acked[Stream.STREAM_STDERR], 0);
  await rename(join(dir, "pod", "0.log"), join(dir, "pod", "0.log.000"));
  full = false;
  await pump.reopen();
  t.is((await stat(join(dir, "pod", "0.log.000"))).size, 0, "the half-written batch was taken back from the old file");
  t.true(await pump.drained(30_000));
  await pump.close();
  await check(t, dir, spool, expected, "reopened while full");
});

test("reopen sends later lines to the new file and none to the old", async (t) => {
  const dir = await folder(t);
  const chunks = chunksOf(Buffer.from("a\nb\nc\nd\n"), Stream.STREAM_STDOUT, () => 2);
  chunks.push(...chunksOf(Buffer.alloc(0), Stream.STREAM_STDERR, () => 1));
  const spool = new FakeSpool(chunks);
  let allowed = 2;
  let waiting = () => {};
  spool.batch = () => {
    if (allowed === 0) {
      waiting();
      throw new PodvmError("unavailable", "not yet");
    }
    allowed -= 1;
    return 1;
  };
  const reached = new Promise<void>((resolve) => {
    waiting = resolve;
  });
  const pump = await OutputPump.open(options(dir, spool));
  await reached;
  await rename(join(dir, "pod", "0.log"), join(dir, "pod", "0.log.1"));
  await pump.reopen();
  await pump.reopen(); // twice is harmless
  allowed = 100;
  t.true(await pump.drained(20_000));
  await pump.close();
  const contents = async (name: string) =>
    (await readFile(join(dir, "pod", name), "utf8")).replace(/^\S+ stdout F /gm, "");
  t.is(await contents("0.log.1"), "a\nb\n");
  t.is(await contents("0.log"), "c\nd\n");
});

test("what is no regular file is refused as log, and so it is on reopening", async (t) => {
  const dir = await folder(t);
  await mkdir(join(dir, "pod"));
  await writeFile(join(dir, "target"), "precious");
  await symlink(join(dir, "target"), join(dir, "pod", "link"));
  await mkdir(join(dir, "pod", "folder"));
  await promisify(execFile)("mkfifo", [join(dir, "pod", "fifo")]);
  for (const name of ["link", "folder", "fifo"]) {
    const logPath = join(dir, "pod", name);
    const err = await t.throwsAsync<PodvmError>(OutputPump.open(options(dir, new FakeSpool([]), { logPath })));
    t.is(err?.code, "failed_precondition", name);
    t.regex(err?.message ?? "", /wanted a regular file/);
  }
  t.is(await readFile(join(dir, "target"), "utf8"), "precious");

  const spool = new FakeSpool(output(82, 100).chunks);
  spool.batch = () => {
    throw new PodvmError("unavailable", "later");
  };
  const pump = await OutputPump.open(options(dir, spool));
  await rename(join(dir, "pod", "0.log"), join(dir, "pod", "0.log.1"));
  await symlink(join(dir, "target"), join(dir, "pod", "0.log"));
  const err = await t.throwsAsync<PodvmError>(pump.reopen());
  t.is(err?.code, "failed_precondition");
  await pump.close();
  t.is(await readFile(join(dir, "target"), "utf8"), "precious");
});

test("another file under the log's name is not cut, whatever the record says", async (t) => {
  const dir = await folder(t);
  const spool = new FakeSpool(output(83, 2000).chunks);
  const first = await OutputPump.open(options(dir, spool));
  t.true(await first.drained(20_000));
  await first.close();
  await rm(join(dir, "pod", "0.log"));
  const foreign = "x".repeat(100_000);
  await writeFile(join(dir, "pod", "0.log"), foreign);
  const second = await OutputPump.open(options(dir, spool));
  await second.close();
  t.is(await readFile(join(dir, "pod", "0.log"), "utf8"), foreign);
});

test("without a log path output is acknowledged and goes to subscribers, each byte once over broken streams", async (t) => {
  const dir = await folder(t);
  const { chunks } = output(84, 5000);
  const spool = new FakeSpool(chunks);
  const pick = random(5);
  spool.batch = () => {
    if (pick(8) === 0) throw new PodvmError("unavailable", "the link broke");
    return 1 + pick(4);
  };
  const { logPath: _, ...noLog } = options(dir, spool);
  const pump = await OutputPump.open(noLog);
  const seen = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  const ends: string[] = [];
  pump.subscribe({
    data: (stream, bytes) => {
      seen[stream].push(Buffer.from(bytes));
    },
    eof: (stream) => ends.push(stream),
  });
  pump.subscribe({
    data: () => {
      throw new Error("a bad listener");
    },
  });
  const unsubscribe = pump.subscribe({ data: () => t.fail("unsubscribed") });
  unsubscribe();
  t.true(await pump.drained(20_000));
  const sent = (stream: Stream) =>
    Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map((chunk) => chunk.data));
  t.deepEqual(Buffer.concat(seen.stdout), sent(Stream.STREAM_STDOUT));
  t.deepEqual(Buffer.concat(seen.stderr), sent(Stream.STREAM_STDERR));
  t.deepEqual(ends.sort(), ["stderr", "stdout"]);
  const late: string[] = [];
  pump.subscribe({ data: () => {}, eof: (stream) => late.push(stream) });
  t.is(late.length, 2);
  t.is(spool.eofAcked.size, 2);
  await t.throwsAsync(pump.reopen(), { message: /no log path/ });
  await pump.close();
});

test("when the VM is gone, end writes what had arrived, the unfinished line as partial", async (t) => {
  const dir = await folder(t);
  const chunks = chunksOf(Buffer.from("whole\nunfinished"), Stream.STREAM_STDOUT, () => 8).slice(0, -1);
  const spool = new FakeSpool(chunks);
  const pump = await OutputPump.open(options(dir, spool));
  const seen: string[] = [];
  pump.subscribe({ data: (_, bytes) => seen.push(bytes.toString()) });
  for (let i = 0; i < 500 && seen.join("") !== "whole\nunfinished"; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  spool.closed = true;
  t.false(await pump.drained(10));
  await pump.end(5000);
  t.true(pump.complete);
  const text = (await readFile(join(dir, "pod", "0.log"), "utf8")).replace(/^\S+ /gm, "");
  t.is(text, "stdout F whole\nstdout P unfinished\n");
  const record = decodePosition(await readFile(join(dir, "logpos", "c1")));
  t.like(record?.position, { stdout: 16, stdoutEof: true, stderrEof: true });
});

test("end during a full disk gives up at its deadline", async (t) => {
  const dir = await folder(t);
  const lines: Line[] = [];
  const spool = new FakeSpool(output(85, 500).chunks);
  const mortal = new MortalFs();
  let stuck = () => {};
  const isStuck = new Promise<void>((resolve) => {
    stuck = resolve;
  });
  mortal.fault = () => {
    stuck();
    return "ENOSPC";
  };
  const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs, logger: recorder(lines) }));
  await isStuck;
  await pump.end(100);
  t.false(pump.complete);
  t.true(lines.some((line) => line.level === "error"));
});

test("end after an interrupted batch writes that batch once", async (t) => {
  const dir = await folder(t);
  const { chunks, expected } = output(86, 2000);
  const spool = new FakeSpool(chunks);
  spool.batch = () => 1_000_000;
  const mortal = new MortalFs();
  let faults = 0;
  let stuck = () => {};
  const isStuck = new Promise<void>((resolve) => {
    stuck = resolve;
  });
  mortal.fault = () => {
    faults += 1;
    if (faults === 1) return "partial";
    if (faults === 2) {
      stuck();
      return "ENOSPC";
    }
    return undefined;
  };
  const pump = await OutputPump.open(options(dir, spool, { fs: mortal.fs }));
  await isStuck;
  await pump.end(5000);
  t.true(pump.complete);
  await check(t, dir, spool, expected, "interrupted batch");
});

test("a guest that answers nonsense ends neither the pump nor the log", async (t) => {
  const dir = await folder(t);
  const { chunks, expected } = output(87, 1000, true);
  const spool = new FakeSpool(chunks);
  const honest = spool.output.bind(spool);
  let lies = 0;
  spool.output = (...args) => {
    const stream = honest(...args);
    return {
      ...stream,
      next: async (max) => {
        const batch = await stream.next(max);
        const chunk = batch?.[0];
        if (!batch || !chunk || lies >= 4) return batch;
        lies += 1;
        const wrong = { ...chunk, offset: chunk.offset + 7n, eof: lies % 2 === 0, data: Buffer.alloc(0) };
        return [...batch.slice(0, 1), wrong, ...batch.slice(1)];
      },
    };
  };
  const pump = await OutputPump.open(options(dir, spool));
  t.true(await pump.drained(30_000));
  await pump.close();
  await check(t, dir, spool, expected, "nonsense");
});

test("a damaged record costs a complaint, not the output", async (t) => {
  const dir = await folder(t);
  const lines: Line[] = [];
  await mkdir(join(dir, "logpos"));
  await writeFile(join(dir, "logpos", "c1"), Buffer.alloc(2 * SLOT_BYTES, 0x41));
  const { chunks, expected } = output(88, 1000);
  const spool = new FakeSpool(chunks);
  const pump = await OutputPump.open(options(dir, spool, { logger: recorder(lines) }));
  t.true(await pump.drained(20_000));
  await pump.close();
  await check(t, dir, spool, expected, "damaged record");
  t.true(lines.some((line) => line.level === "error"));
});

test("an impossible line length is refused", async (t) => {
  const dir = await folder(t);
  for (const maxLine of [0, 63, 1 << 20, 100.5]) {
    await t.throwsAsync(OutputPump.open(options(dir, new FakeSpool([]), { maxLine })), { message: /longest log line/ });
  }
});

test("a container that is gone, or output that the guest cannot have, ends the reading; a broken stream does not", async (t) => {
  for (const [code, ends] of [
    [status.NOT_FOUND, true],
    [status.OUT_OF_RANGE, true],
    [status.ABORTED, false],
    [status.CANCELLED, false],
    [status.INTERNAL, false],
  ] as const) {
    const dir = await folder(t);
    const { chunks, expected } = output(90, 500);
    const spool = new FakeSpool(chunks);
    let refuse = true;
    spool.batch = () => {
      if (!refuse) return 4;
      refuse = false;
      throw fromGrpc(Object.assign(new Error("no"), { code, details: "no" }), "Output");
    };
    const pump = await OutputPump.open(options(dir, spool));
    t.is(await pump.drained(20_000), !ends, status[code]);
    await pump.close();
    if (!ends) await check(t, dir, spool, expected, status[code]);
  }
});
