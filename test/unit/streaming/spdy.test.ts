import test, { type ExecutionContext } from "ava";
import type { StreamingServer } from "../../../src/streaming/server.js";
import type { ExecRequest } from "../../../src/streaming/session.js";
import { control, FrameType, ping, rstStream, windowUpdate } from "../../../src/streaming/spdy/frames.js";
import { until } from "../../support/until.js";
import { command, type EchoBackend, echoServer } from "./echo-backend.js";
import { BlockWriter, dataFrame, SpdyClient, synStream } from "./spdy-client.js";

interface Session {
  client: SpdyClient;
  ids: Record<string, number>;
  server: StreamingServer;
  backend: EchoBackend;
}

async function session(t: ExecutionContext, words: string, more: Partial<ExecRequest> = {}): Promise<Session> {
  const { server, backend } = await echoServer(t);
  const request = command(words, more);
  const { client } = await SpdyClient.connect(server.url(request));
  t.teardown(() => client.socket.destroy());
  const ids: Record<string, number> = {};
  for (const streamtype of ["error", "stdin", "stdout", "stderr"] as const) {
    if (streamtype === "error" || request[streamtype]) ids[streamtype] = await client.open({ streamtype });
  }
  return { client, ids, server, backend };
}

/** The connection has ended, and nothing of it is left on the server. */
async function ended({ client, server }: Session): Promise<void> {
  await until("the connection's end", 10_000, () => client.socket.destroyed || client.socket.readableEnded);
  await until("the session's end", 10_000, () => server.load.sessions === 0);
}

test("input is closed by the client, outputs by the server, the outcome comes as a status", async (t) => {
  const s = await session(t, "cat", { stdin: true });
  const { stdin = 0, stdout = 0, stderr = 0, error = 0 } = s.ids;
  s.client.socket.write(dataFrame(stdin, "hello "));
  await until("the echo", 5000, () => s.client.text(stdout) === "hello ");
  s.client.socket.write(dataFrame(stdin, "world", true));
  await until("the end of all streams", 5000, () => [stdout, stderr, error].every((id) => s.client.ended.has(id)));
  t.is(s.client.text(stdout), "hello world");
  t.deepEqual(JSON.parse(s.client.text(error)), { metadata: {}, status: "Success" });
  await ended(s);
});

test("a non-zero exit is a status with its cause", async (t) => {
  const s = await session(t, "exit 42");
  const { error = 0 } = s.ids;
  await until("the outcome", 5000, () => s.client.ended.has(error));
  const status = JSON.parse(s.client.text(error));
  t.is(status.reason, "NonZeroExitCode");
  t.deepEqual(status.details, { causes: [{ reason: "ExitCode", message: "42" }] });
});

test("pings of the client are answered, its answers are not", async (t) => {
  const s = await session(t, "idle 60000");
  s.client.socket.write(Buffer.concat([ping(7), ping(8)]));
  await until("the answer", 5000, () => s.client.of(FrameType.PING).length > 0);
  t.deepEqual(
    s.client.of(FrameType.PING).map(({ payload }) => payload.readUInt32BE(0)),
    [7],
  );
});

test("a client that keeps windows gets no more than they allow", async (t) => {
  const s = await session(t, "send 300000");
  const { stdout = 0 } = s.ids;
  // Settings: initial window 1000 bytes.
  s.client.socket.write(control(FrameType.SETTINGS, Buffer.from([0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 3, 232])));
  const got = () => s.client.text(stdout).length;
  let allowed = 0;
  await until("the sender stands still", 10_000, async () => {
    allowed = got();
    await new Promise((resolve) => setTimeout(resolve, 300));
    return got() === allowed;
  });
  s.client.socket.write(windowUpdate(stdout, 300_000));
  await until("the rest", 10_000, () => got() === 300_000);
  t.pass();
});

test("a client that keeps windows from its first byte on gets exactly what they allow", async (t) => {
  const { server } = await echoServer(t);
  const { client } = await SpdyClient.connect(server.url(command("send 300000")));
  t.teardown(() => client.socket.destroy());
  client.socket.write(control(FrameType.SETTINGS, Buffer.from([0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 3, 232])));
  for (const streamtype of ["error", "stderr"]) await client.open({ streamtype });
  const stdout = await client.open({ streamtype: "stdout" });
  const got = () => client.text(stdout).length;
  await until("the window's worth", 5000, () => got() === 1000);
  client.socket.write(windowUpdate(stdout, 500));
  await until("and its update's", 5000, () => got() === 1500);
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.is(got(), 1500);
});

test("what is taken is told by window updates", async (t) => {
  const s = await session(t, "count", { stdin: true });
  const { stdin = 0, stdout = 0 } = s.ids;
  const size = 200_000;
  s.client.socket.write(dataFrame(stdin, Buffer.alloc(size), true));
  await until("the count", 5000, () => s.client.text(stdout) === String(size));
  const updates = s.client
    .of(FrameType.WINDOW_UPDATE)
    .map(({ payload }) => [payload.readUInt32BE(0), payload.readUInt32BE(4)]);
  const told = (id: number) => updates.reduce((sum, [of, delta]) => (of === id ? sum + (delta ?? 0) : sum), 0);
  t.true(told(stdin) > size - 65536 && told(stdin) <= size, `${told(stdin)} of ${size} bytes were told for the stream`);
  t.true(told(0) > size - 65536 && told(0) <= size, `${told(0)} of ${size} bytes were told for the connection`);
});

test("a command that does not read stalls its client, and the memory stays bounded", async (t) => {
  const s = await session(t, "stall", { stdin: true });
  const { stdin = 0 } = s.ids;
  const piece = dataFrame(stdin, Buffer.alloc(64 * 1024));
  let sent = 0;
  const feed = () => {
    while (s.client.socket.writableLength < 1 << 20 && sent < 64 << 20) {
      s.client.socket.write(piece);
      sent += piece.length;
    }
  };
  s.client.socket.on("drain", feed);
  feed();
  let stood = -1;
  await until("the client stands still", 20_000, async () => {
    const before = sent;
    await new Promise((resolve) => setTimeout(resolve, 500));
    stood = sent;
    return before === stood;
  });
  // Our MiB for the stream, the kernel's buffers on both sides, and the client's own MiB.
  t.true(stood < 16 << 20, `${stood} bytes went to a command that does not read`);
  s.client.socket.destroy();
  // Nothing reads the connection: only a ping that cannot be delivered tells that the client is gone.
  await until("the session's end", 40_000, () => s.server.load.sessions === 0);
  t.is(s.backend.aborted.length, 1);
});

test("a client that vanishes while its output is stuck ends the command", async (t) => {
  const s = await session(t, "send 1000000000");
  s.client.socket.pause();
  await until("the command stands still", 20_000, async () => {
    const before = s.backend.written;
    await new Promise((resolve) => setTimeout(resolve, 500));
    return before > 0 && before === s.backend.written;
  });
  t.true(s.backend.written < 32 << 20);
  s.client.socket.destroy();
  await until("the session's end", 10_000, () => s.server.load.sessions === 0);
  t.is(s.backend.running, 0);
});

test("answers that the client does not read do not pile up", async (t) => {
  const s = await session(t, "idle 60000");
  s.client.socket.pause();
  const many = Buffer.concat(Array.from({ length: 5000 }, () => ping(1)));
  let sent = 0;
  const feed = () => {
    while (s.client.socket.writableLength < 1 << 20 && sent < 256 << 20) {
      s.client.socket.write(many);
      sent += many.length;
    }
  };
  s.client.socket.on("drain", feed);
  feed();
  await until("the client stands still", 60_000, async () => {
    const before = sent;
    await new Promise((resolve) => setTimeout(resolve, 500));
    return before === sent;
  });
  t.true(sent < 64 << 20, `${sent} bytes of pings were taken of a client that reads no answer`);
  s.client.socket.destroy();
  await until("the session's end", 10_000, () => s.server.load.sessions === 0);
});

test("streams that are not wanted are refused, and the session waits for those that are", async (t) => {
  const s = await session(t, "say x", { stderr: false });
  t.is((await s.client.open({ streamtype: "stdin" })) > 0, true);
  await s.client.open({ streamtype: "nonsense" });
  await s.client.open({});
  await until("three resets", 5000, () => s.client.of(FrameType.RST_STREAM).length === 3);
  const { error = 0 } = s.ids;
  await until("the outcome all the same", 5000, () => s.client.ended.has(error));
  t.pass();
});

test("forwarded connections: one that the client resets is no error, one that fails says why, the others go on", async (t) => {
  const { server } = await echoServer(t);
  const headers = { "X-Stream-Protocol-Version": "portforward.k8s.io" };
  const { client } = await SpdyClient.connect(server.url({ kind: "portforward", podId: "p1", ports: [] }), headers);
  t.teardown(() => client.socket.destroy());
  const pair = async (port: number, requestid: string) => {
    const error = await client.open({ streamtype: "error", port: String(port), requestid });
    const data = await client.open({ streamtype: "data", port: String(port), requestid });
    return { error, data };
  };
  const [lasting, cut, refused] = [await pair(7, "1"), await pair(9, "2"), await pair(81, "3")];
  client.socket.write(rstStream(cut.data, 5));
  await until("the errors' ends", 5000, () => client.ended.has(cut.error) && client.ended.has(refused.error));
  t.is(client.text(cut.error), "");
  t.regex(client.text(refused.error), /nothing listens on port 81/);
  client.socket.write(dataFrame(lasting.data, "still here", true));
  await until("the other's end", 5000, () => client.ended.has(lasting.data) && client.ended.has(lasting.error));
  t.is(client.text(lasting.data), "still here");
  t.is(client.text(lasting.error), "");
});

const block = new BlockWriter().block({ streamtype: "error" });
const bomb = new BlockWriter().raw(Buffer.alloc(1 << 20));
const violations: [string, () => Promise<Buffer> | Buffer][] = [
  ["another version", () => Buffer.from([0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1])],
  ["a control frame that is too long", () => Buffer.from([0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff])],
  ["an even stream id", async () => synStream(2, await block)],
  ["a header block that is none", () => synStream(99, Buffer.from("nonsense"))],
  ["a header block that is a bomb", async () => synStream(99, await bomb)],
  ["a SYN_STREAM cut short", () => control(FrameType.SYN_STREAM, Buffer.alloc(9))],
  ["a RST_STREAM cut short", () => control(FrameType.RST_STREAM, Buffer.alloc(4))],
  ["a PING cut short", () => control(FrameType.PING, Buffer.alloc(3))],
  ["settings that are fewer than they say", () => control(FrameType.SETTINGS, Buffer.from([0, 0, 1, 0]))],
  ["a window update of nothing", () => windowUpdate(0, 0)],
  ["a window beyond 2 GiB", () => windowUpdate(0, 0x7fffffff)],
];
for (const [what, frame] of violations) {
  test(`against the protocol: ${what} ends the connection`, async (t) => {
    const { server } = await echoServer(t);
    const { client } = await SpdyClient.connect(server.url(command("idle 60000")));
    client.socket.write(await frame());
    await until("the connection's end", 10_000, () => client.socket.destroyed || client.socket.readableEnded);
    await until("the session's end", 10_000, () => server.load.sessions === 0);
    t.deepEqual(
      client.of(FrameType.GOAWAY).map(({ payload }) => payload.readUInt32BE(4)),
      [1],
    );
  });
}
