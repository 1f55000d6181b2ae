/** The SPDY server against frames that were made up, or changed at random; each run names its seed, which repeats it. */
import { Duplex } from "node:stream";
import test from "ava";
import { SpdyConnection } from "../../../src/streaming/spdy/connection.js";
import { control, FrameType, ping, windowUpdate } from "../../../src/streaming/spdy/frames.js";
import { until } from "../../support/until.js";
import { BlockWriter, dataFrame, synStream } from "./spdy-client.js";

const RUNS = 300;
const LIMITS = { streamBytes: 64 * 1024, totalBytes: 256 * 1024, streams: 16, probeMs: 60_000 };
/** What a connection may hold: its streams' bound, one piece beyond it, and the answers that wait to be sent. */
const MOST_HELD = LIMITS.totalBytes + 2 * 64 * 1024 + 256 * 1024;

/** xorshift32. */
function random(seed: number): (below: number) => number {
  let state = seed * 2654435761 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

async function frames(next: (below: number) => number): Promise<Buffer[]> {
  const blocks = new BlockWriter();
  const made: Buffer[] = [];
  const types = ["error", "stdin", "data", "", "\0", "x".repeat(3000)];
  let id = -1;
  for (let i = 0; i < 40; i++) {
    const some = next(12) * 2 + 1;
    switch (next(9)) {
      case 0:
      case 1:
        id += 2;
        made.push(synStream(id, await blocks.block({ streamtype: types[next(types.length)] ?? "" }), next(4)));
        break;
      case 2:
      case 3:
      case 4:
        made.push(dataFrame(some, Buffer.alloc(next(8) === 0 ? next(200_000) : next(100)), next(5) === 0));
        break;
      case 5:
        made.push(ping(next(1 << 30)));
        break;
      case 6:
        made.push(windowUpdate(next(3) === 0 ? 0 : some, next(100_000)));
        break;
      case 7: {
        const words = Buffer.alloc(next(6) * 4);
        for (let at = 0; at < words.length; at += 4) words.writeUInt32BE(next(16), at);
        made.push(control(next(12), words, next(256)));
        break;
      }
      default: {
        const settings = Buffer.from([0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0]);
        settings.writeUInt32BE(next(1 << 20), 8);
        made.push(control(FrameType.SETTINGS, settings));
      }
    }
  }
  return made;
}

function mutate(bytes: Buffer, next: (below: number) => number): void {
  for (let n = next(6); n > 0; n--) bytes[next(bytes.length)] = next(256);
}

test("random and damaged frames neither throw nor make the connection hold more than its bound", async (t) => {
  t.timeout(120_000);
  let finished = 0;
  for (let seed = 1; seed <= RUNS; seed++) {
    const next = random(seed);
    const input = Buffer.concat(await frames(next));
    if (seed % 3 !== 0) mutate(input, next);
    let taken = 0;
    const transport = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        taken += chunk.length;
        setImmediate(done);
      },
    });
    const connection = new SpdyConnection(transport, {
      limits: LIMITS,
      onStream(stream) {
        stream.signal.addEventListener("abort", () => {});
        const kind = next(4);
        if (kind === 0) stream.reset();
        else if (kind === 1) stream.source.discard();
        else if (kind === 2) {
          void (async () => {
            for await (const piece of stream.source) await stream.write(piece);
            await stream.end();
          })().catch(() => {});
        } // else: never read
      },
    });
    let most = 0;
    for (let at = 0; at < input.length && !connection.signal.aborted; ) {
      const length = Math.min(1 + next(20_000), input.length - at);
      transport.push(input.subarray(at, at + length));
      at += length;
      await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, connection.held);
    }
    transport.push(null);
    // A connection that has stopped reading stands until somebody cuts it, which the session does.
    await Promise.race([connection.closed, new Promise((resolve) => setTimeout(resolve, 20))]);
    most = Math.max(most, connection.held);
    if (most > MOST_HELD) t.fail(`seed ${seed}: ${most} bytes were held, at most ${MOST_HELD} may be`);
    transport.destroy();
    await until(`seed ${seed}: the connection's end`, 5000, () => connection.signal.aborted);
    if (connection.openStreams > 0) t.fail(`seed ${seed}: streams are left`);
    finished += taken >= 0 ? 1 : 0;
  }
  t.is(finished, RUNS);
});

test("pure noise ends the connection", async (t) => {
  for (let seed = 1; seed <= 100; seed++) {
    const next = random(seed);
    const noise = Buffer.from(Array.from({ length: 4096 }, () => next(256)));
    const transport = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
    const connection = new SpdyConnection(transport, { onStream: (stream) => stream.reset() });
    transport.push(noise);
    transport.push(null);
    await until(`seed ${seed}: the connection's end`, 5000, () => connection.signal.aborted);
  }
  t.pass();
});
