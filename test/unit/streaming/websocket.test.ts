import { once } from "node:events";
import test, { type ExecutionContext } from "ava";
import { WebSocket } from "ws";
import type { StreamRequest } from "../../../src/streaming/session.js";
import { until } from "../../support/until.js";
import { command, echoServer } from "./echo-backend.js";

async function open(t: ExecutionContext, request: StreamRequest, protocol = "v5.channel.k8s.io") {
  const { server, backend } = await echoServer(t);
  const socket = new WebSocket(server.url(request).replace("http:", "ws:"), protocol, { origin: "http://elsewhere" });
  const messages: Buffer[] = [];
  socket.on("message", (data: Buffer) => messages.push(data));
  socket.on("error", () => {});
  let code = 0;
  socket.on("close", (number) => {
    code = number;
  });
  t.teardown(() => socket.terminate());
  await once(socket, "open");
  const text = (channel: number) =>
    Buffer.concat(
      messages.filter((message) => message[0] === channel).map((message) => message.subarray(1)),
    ).toString();
  return { socket, messages, text, server, backend, closed: () => code };
}

const gone = (server: { load: { sessions: number } }) =>
  until("the session's end", 15_000, () => server.load.sessions === 0);

test("an empty message says that the session has begun, 255 closes the input, the outcome comes last", async (t) => {
  const { socket, messages, text, closed, server } = await open(t, command("cat", { stdin: true }));
  await until("the first message", 5000, () => messages.length > 0);
  t.deepEqual(messages[0], Buffer.from([1]));
  socket.send(Buffer.from("\0hello"));
  await until("the echo", 5000, () => text(1) === "hello");
  socket.send(Buffer.from([255, 0]));
  await until("the close", 5000, () => closed() === 1000);
  t.is(JSON.parse(text(3)).status, "Success");
  t.is(messages.at(-1)?.[0], 3);
  await gone(server);
});

test("a command that does not read stalls its client, whom pongs keep patient, and whose end is noticed", async (t) => {
  const { socket, server, backend } = await open(t, command("stall", { stdin: true }));
  let pongs = 0;
  socket.on("pong", () => {
    pongs += 1;
  });
  const piece = Buffer.alloc(64 * 1024);
  let sent = 0;
  const feed = setInterval(() => {
    while (socket.bufferedAmount < 1 << 20 && sent < 64 << 20) {
      socket.send(piece);
      sent += piece.length;
    }
  }, 5);
  t.teardown(() => clearInterval(feed));
  let stood = -1;
  await until("the client stands still", 20_000, async () => {
    const before = sent;
    await new Promise((resolve) => setTimeout(resolve, 500));
    stood = sent;
    return sent > 0 && before === sent;
  });
  t.true(stood < 16 << 20, `${stood} bytes went to a command that does not read`);
  await until("a pong that was not asked for", 15_000, () => pongs > 0);
  clearInterval(feed);
  socket.terminate();
  await until("the session's end", 30_000, () => server.load.sessions === 0);
  t.is(backend.aborted.length, 1);
});

test("messages that are none of the protocol's end the session", async (t) => {
  for (const message of ["text", Buffer.alloc(0), Buffer.alloc((1 << 20) + 1)]) {
    const { socket, server } = await open(t, command("idle 60000"));
    socket.send(message);
    await once(socket, "close");
    await gone(server);
  }
  t.pass();
});

test("sizes, and what belongs to no channel", async (t) => {
  const { socket, text } = await open(t, command("sizes 2", { tty: true, stderr: false }));
  socket.send(Buffer.from([77, 1, 2, 3]));
  socket.send(Buffer.from([255]));
  socket.send(Buffer.from([255, 99]));
  socket.send(Buffer.from('\x04{"Width":80,"Height":24}'));
  await until("the first size", 5000, () => text(1) === "80x24 ");
  socket.send(Buffer.from('\x04{"Width":132,"Height":50}'));
  await until("the second size", 5000, () => text(1) === "80x24 132x50 ");
  t.pass();
});

test("ports: two channels each, which begin with their number", async (t) => {
  const request = { kind: "portforward", podId: "p1", ports: [7, 13, 81] } as const;
  const { socket, text, server } = await open(t, { ...request, ports: [...request.ports] }, "v4.channel.k8s.io");
  socket.send(Buffer.from("\0ping"));
  await until("the echo", 5000, () => text(0) === "\x07\0ping");
  await until("what a port says by itself", 5000, () => text(2) === "\x0d\0hello");
  await until("what went wrong", 5000, () => text(5).includes("nothing listens on port 81"));
  t.is(text(1), "\x07\0");
  socket.close();
  await gone(server);
});

test("ports must be in the request", async (t) => {
  const { server } = await echoServer(t);
  const url = server.url({ kind: "portforward", podId: "p1", ports: [] }).replace("http:", "ws:");
  const socket = new WebSocket(url, "v4.channel.k8s.io");
  const [err] = await once(socket, "error");
  t.regex(String(err), /400/);
  await gone(server);
});
