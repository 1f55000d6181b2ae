/** The WebSocket side against frames that were made up, or changed at random; each run names its seed, which repeats it. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import test from "ava";
import { silentLogger } from "../../../src/host/log.js";
import { until } from "../../support/until.js";
import { command, echoServer } from "./echo-backend.js";
import { upgrade } from "./spdy-client.js";

const RUNS = 150;

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

/** One frame as clients send it (RFC 6455, 5.2): masked, here with zeros. */
function frame(opcode: number, payload: Buffer, fin: boolean): Buffer {
  const head = [(fin ? 0x80 : 0) | opcode];
  const length = payload.length;
  if (length < 126) head.push(0x80 | length);
  else if (length < 65_536) head.push(0x80 | 126, length >> 8, length & 255);
  else head.push(0x80 | 127, 0, 0, 0, 0, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255);
  return Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), payload]);
}

function frames(next: (below: number) => number): Buffer {
  const made: Buffer[] = [];
  for (let i = 0; i < 30; i++) {
    const payload = Buffer.alloc(next(6) === 0 ? next(100_000) : next(60), next(256));
    if (payload.length > 0 && next(4) > 0) payload[0] = [0, 0, 0, 4, 255, next(256)][next(6)] ?? 0;
    const opcode = [2, 2, 2, 2, 0, 1, 8, 9, 10, next(16)][next(10)] ?? 2;
    made.push(frame(opcode, payload, next(8) > 0));
  }
  return Buffer.concat(made);
}

const headers = (protocol: string) => ({
  Connection: "Upgrade",
  Upgrade: "websocket",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
  "Sec-WebSocket-Protocol": protocol,
});

for (const [protocol, request] of [
  ["v5.channel.k8s.io", () => command("cat", { stdin: true })],
  ["v4.channel.k8s.io", () => command("sizes 99", { tty: true, stderr: false, stdin: true })],
  ["v4.channel.k8s.io", () => ({ kind: "portforward" as const, podId: "p1", ports: [7, 9, 19] })],
  ["SPDY/3.1+portforward.k8s.io", () => ({ kind: "portforward" as const, podId: "p1", ports: [] })],
] as const) {
  test(`${protocol}, ${request().kind}: random and damaged frames end a session, never the server`, async (t) => {
    t.timeout(120_000);
    const failures: string[] = [];
    const logger = { ...silentLogger, error: (message: string) => failures.push(message), child: () => logger };
    const { server, backend } = await echoServer(t, { logger });
    for (let seed = 1; seed <= RUNS; seed++) {
      const next = random(seed);
      const { answer, socket } = await upgrade(server.url(request()), headers(protocol), "GET");
      t.regex(answer, /101 Switching/, `seed ${seed}`);
      socket.resume();
      const input = next(10) === 0 ? randomBytes(5000) : frames(next);
      if (seed % 3 !== 0) for (let n = next(6); n > 0; n--) input[next(input.length)] = next(256);
      for (let at = 0; at < input.length && !socket.destroyed; ) {
        const length = 1 + next(20_000);
        socket.write(input.subarray(at, at + length));
        at += length;
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (!socket.destroyed) {
        const closed = once(socket, "close");
        socket.destroy();
        await closed;
      }
    }
    await until("the end of all sessions", 30_000, () => server.load.sessions === 0 && backend.running === 0);
    t.deepEqual(failures, []);
  });
}
