/**
 * Sessions in which nothing happens, with the server's timers run fast: 1 s where it has 10 s, 3 s where it has 60 s. Nothing else in
 * the server counts time in a session that is not stuck (test/soak/streaming.ts idles in real time).
 */
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import test from "ava";
import { WebSocket } from "ws";
import { until } from "../../support/until.js";
import { command, echoServer } from "./echo-backend.js";
import { dataFrame, SpdyClient } from "./spdy-client.js";

const FAST = { requestTimeoutMs: 1000, tokenTtlMs: 3000 };
const IDLE_MS = 6000;

test("an idle SPDY session goes on where it stood", async (t) => {
  const { server } = await echoServer(t, FAST);
  const { client } = await SpdyClient.connect(server.url(command("cat", { stdin: true })));
  await client.open({ streamtype: "error" });
  const stdin = await client.open({ streamtype: "stdin" });
  const stdout = await client.open({ streamtype: "stdout" });
  await client.open({ streamtype: "stderr" });
  await sleep(IDLE_MS);
  t.is(server.load.sessions, 1);
  client.socket.write(dataFrame(stdin, "after a while", true));
  await until("the echo", 5000, () => client.text(stdout) === "after a while");
  client.socket.destroy();
  await until("the session's end", 10_000, () => server.load.sessions === 0);
});

test("an idle WebSocket session goes on where it stood", async (t) => {
  const { server } = await echoServer(t, FAST);
  const url = server.url(command("cat", { stdin: true })).replace("http:", "ws:");
  const socket = new WebSocket(url, "v5.channel.k8s.io");
  let said = "";
  socket.on("message", (data: Buffer) => {
    if (data[0] === 1) said += data.subarray(1);
  });
  await once(socket, "open");
  await sleep(IDLE_MS);
  t.is(server.load.sessions, 1);
  socket.send(Buffer.from("\0after a while"));
  await until("the echo", 5000, () => said === "after a while");
  socket.terminate();
  await until("the session's end", 10_000, () => server.load.sessions === 0);
});

test("a client that never sends its request is cut, and a URL that nobody came for is forgotten", async (t) => {
  const { server } = await echoServer(t, FAST);
  const url = server.url(command("say x"));
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  socket.on("error", () => {});
  socket.resume();
  socket.write("POST /exec/");
  await once(socket, "close");
  await until("the URL's end", 5000, () => server.load.waiting === 0);
  t.pass();
});

for (const [how, leave] of [
  ["closes the connection", (client: SpdyClient) => client.socket.destroy()],
  ["resets it", (client: SpdyClient) => client.socket.resetAndDestroy()],
  ["closes only its own direction", (client: SpdyClient) => client.socket.end()],
] as const) {
  test(`a client in the midst of output that ${how}: its command is over`, async (t) => {
    const { server, backend } = await echoServer(t, FAST);
    const { client } = await SpdyClient.connect(server.url(command(`send ${1 << 30}`)));
    await client.open({ streamtype: "error" });
    const stdout = await client.open({ streamtype: "stdout" });
    await client.open({ streamtype: "stderr" });
    await until("output", 5000, () => (client.received.get(stdout)?.length ?? 0) > 0);
    leave(client);
    await until("the session's end", 10_000, () => server.load.sessions === 0 && backend.running === 0);
    t.is(backend.aborted.length, 1);
  });
}
