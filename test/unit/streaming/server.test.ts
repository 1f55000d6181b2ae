import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { until } from "../../support/until.js";
import { command, echoServer } from "./echo-backend.js";
import { SpdyClient, upgrade } from "./spdy-client.js";

const SPDY = {
  Connection: "Upgrade",
  Upgrade: "SPDY/3.1",
  "X-Stream-Protocol-Version": "v4.channel.k8s.io",
};

test("a URL is good for one client", async (t) => {
  const { server } = await echoServer(t);
  const url = server.url(command("say x"));
  t.regex(url, /^http:\/\/127\.0\.0\.1:\d+\/exec\/[A-Za-z0-9_-]{32}$/);
  const first = await upgrade(url, SPDY);
  t.regex(first.answer, /^HTTP\/1\.1 101 /);
  const second = await upgrade(url, SPDY);
  t.regex(second.answer, /^HTTP\/1\.1 404 .*one use/s);
  first.socket.destroy();
});

test("a URL expires", async (t) => {
  const { server } = await echoServer(t, { tokenTtlMs: 50 });
  const url = server.url(command("say x"));
  await until("the token's end", 5000, () => server.load.waiting === 0);
  t.regex((await upgrade(url, SPDY)).answer, /^HTTP\/1\.1 404 /);
});

test("what is not a URL of ours is not found", async (t) => {
  const { server } = await echoServer(t);
  const url = server.url(command("say x"));
  const { origin, pathname } = new URL(url);
  const token = pathname.split("/")[2] ?? "";
  for (const path of [
    "/",
    "/exec/",
    `/exec/${"A".repeat(32)}`,
    `/exec/${token}/x`,
    `/exec/${token.slice(1)}`,
    "/x/../exec/",
  ]) {
    t.regex((await upgrade(`${origin}${path}`, SPDY)).answer, /^HTTP\/1\.1 404 /, path);
  }
  t.is(server.load.waiting, 1);
  t.regex((await upgrade(`${origin}/attach/${token}`, SPDY)).answer, /^HTTP\/1\.1 404 /, "a token of another kind");
  t.is(server.load.waiting, 0, "which uses it up");
});

test("requests that cannot be served say what was wanted", async (t) => {
  const { server } = await echoServer(t);
  const tries: [Record<string, string>, RegExp][] = [
    [{}, /^HTTP\/1\.1 400 .*wanted an upgrade to SPDY\/3\.1 or websocket/s],
    [{ ...SPDY, Upgrade: "h2c" }, /^HTTP\/1\.1 400 .*found h2c/s],
    [{ Connection: "Upgrade", Upgrade: "SPDY/3.1" }, /^HTTP\/1\.1 400 .*X-Stream-Protocol-Version/s],
    [
      { ...SPDY, "X-Stream-Protocol-Version": "v9.channel.k8s.io" },
      /^HTTP\/1\.1 403 .*X-Accepted-Stream-Protocol-Versions: v4\.channel\.k8s\.io, .*found v9/s,
    ],
    [{ Connection: "Upgrade", Upgrade: "websocket" }, /^HTTP\/1\.1 400 .*v5\.channel\.k8s\.io.*found none/s],
    [
      { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Protocol": "v5.channel.k8s.io" },
      /^HTTP\/1\.1 4\d\d /,
    ],
  ];
  for (const [headers, answer] of tries) {
    const got = await upgrade(server.url(command("say x")), headers, "GET");
    t.regex(got.answer, answer);
  }
  await until("the sessions' end", 10_000, () => server.load.sessions === 0);
});

test("the client's first protocol that is spoken wins", async (t) => {
  const { server } = await echoServer(t);
  const wanted = "v9.channel.k8s.io, v3.channel.k8s.io, v4.channel.k8s.io";
  const { answer, client } = await SpdyClient.connect(server.url(command("say x")), {
    "X-Stream-Protocol-Version": wanted,
  });
  t.regex(answer, /X-Stream-Protocol-Version: v3\.channel\.k8s\.io/);
  client.socket.destroy();
});

test("requests that wait for their clients are bounded", async (t) => {
  const { server } = await echoServer(t, { maxTokens: 3 });
  for (let i = 0; i < 3; i++) server.url(command("say x"));
  const err = t.throws(() => server.url(command("say x")));
  t.true(hasCode(err, "resource_exhausted"));
  await server.close();
  t.is(server.load.waiting, 0);
});

test("sessions are bounded", async (t) => {
  const { server } = await echoServer(t, { maxSessions: 1 });
  const { client } = await SpdyClient.connect(server.url(command("idle 60000")));
  const refused = await upgrade(server.url(command("say x")), SPDY);
  t.regex(refused.answer, /^HTTP\/1\.1 503 .*try again/s);
  client.socket.destroy();
  await until("the session's end", 5000, () => server.load.sessions === 0);
});

test("closing the server cuts its sessions", async (t) => {
  const { server, backend } = await echoServer(t);
  const { client } = await SpdyClient.connect(server.url(command("idle 60000")));
  for (const streamtype of ["error", "stdout", "stderr"]) await client.open({ streamtype });
  await until("the command runs", 5000, () => backend.running === 1);
  await server.close();
  t.deepEqual(server.load, { sessions: 0, waiting: 0 });
  t.is(backend.aborted.length, 1);
  t.throws(() => server.url(command("say x")), { message: /does not listen/ });
});
