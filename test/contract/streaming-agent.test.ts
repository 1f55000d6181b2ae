/** Exec, attach and port-forward from client-go's side of the URL down to the real agent, run as a plain process, with real crun. */
import net from "node:net";
import { until } from "../support/until.js";
import { command } from "../unit/streaming/echo-backend.js";
import { agent, agentTest, attachable, drive, listener, MIB, type Result, server, shell } from "./streaming-rig.js";

for (const proto of ["spdy", "ws"]) {
  agentTest(`${proto}: exec with outputs, input, exit code`, async (t) => {
    const url = server.url(shell("cat; echo err >&2; exit 9", { stdin: true }));
    const result = await drive<Result>("exec", "-url", url, "-proto", proto, "-stdin", "hello");
    t.is(result.stdout.head, "hello");
    t.is(result.stderr.head, "err\n");
    t.is(result.code, 9);
  });

  agentTest(`${proto}: 32 MiB out of a command, and 32 MiB into one`, async (t) => {
    const out = await drive<Result>(
      "exec",
      "-url",
      server.url(shell(`head -c ${32 * MIB} /dev/zero`)),
      "-proto",
      proto,
    );
    t.is(out.error, "");
    t.is(out.stdout.bytes, 32 * MIB);
    const url = server.url(shell("wc -c", { stdin: true }));
    const into = await drive<Result>("exec", "-url", url, "-proto", proto, "-stdin-bytes", String(32 * MIB));
    t.is(into.error, "");
    t.is(Number(into.stdout.head), 32 * MIB);
  });

  agentTest(`${proto}: a terminal with its sizes`, async (t) => {
    const url = server.url(shell("stty size; sleep 1; stty size", { tty: true, stdin: true, stderr: false }));
    const args = ["-tty", "-no-stderr", "-sizes", "101x37", "-stdin", "x"];
    const result = await drive<Result>("exec", "-url", url, "-proto", proto, ...args);
    t.is(result.error, "");
    t.regex(result.stdout.head, /37 101/);
  });

  agentTest(`${proto}: the pod's port, which listens on localhost only`, async (t) => {
    const echo = await listener(t, "127.0.0.1");
    const url = server.url({ kind: "portforward", podId: "pod1", ports: [] });
    const args = ["-port", String(echo), "-connections", "20", "-bytes", String(MIB / 2)];
    const result = await drive<{ good: number; errors: string[] | null }>(
      "forward",
      "-url",
      url,
      "-proto",
      proto,
      ...args,
    );
    t.deepEqual(result.errors, null);
    t.is(result.good, 20);
  });
}

agentTest("a port on ::1 only, and one that nobody listens on", async (t) => {
  const echo = await listener(t, "::1");
  const url = server.url({ kind: "portforward", podId: "pod1", ports: [] });
  const good = await drive<{ good: number }>("forward", "-url", url, "-port", String(echo), "-bytes", "1000");
  t.is(good.good, 1);
  const dial = agent.dial(1);
  const err = await t.throwsAsync(dial.next());
  t.regex(err?.message ?? "", /no connection to port 1: 127\.0\.0\.1:1: Connection refused.*\[::1\]:1: /);
});

agentTest("each direction of a connection ends by itself", async (t) => {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.end("early"); // closes its direction first, then counts
    let bytes = 0;
    socket.on("data", (data) => {
      bytes += data.length;
    });
    socket.on("end", () => {
      counted = bytes;
    });
  });
  let counted = -1;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const dial = agent.dial((server.address() as net.AddressInfo).port);
  t.is((await dial.next())?.data.length, 0, "connected");
  t.is((await dial.next())?.data.toString(), "early");
  t.true((await dial.next())?.eof);
  await dial.write(Buffer.alloc(1000));
  dial.closeWrite();
  t.is(await dial.next(), undefined);
  await until("the count", 5000, () => counted === 1000);
});

agentTest("a client that cuts a connection cuts the pod's", async (t) => {
  let cut = false;
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.on("close", () => {
      cut = true;
    });
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const dial = agent.dial((server.address() as net.AddressInfo).port);
  await dial.next();
  dial.cancel();
  await until("the pod's connection ends", 10_000, () => cut);
  t.pass();
});

agentTest("attach: input and outputs, until the container ends", async (t) => {
  await attachable("a1", "read line; echo got $line; echo err >&2", { stdin: true, stdinOnce: false });
  const url = server.url({ ...command("-", { stdin: true }), kind: "attach", containerId: "a1" });
  const result = await drive<Result>("exec", "-url", url, "-stdin", "hello\n");
  t.is(result.error, "");
  t.is(result.stdout.head, "got hello\n");
  t.is(result.stderr.head, "err\n");
});

agentTest("attach: stdin_once closes the container's input with the client's, also an empty one", async (t) => {
  await attachable("a2", "cat; echo end", { stdin: true, stdinOnce: true });
  const url = server.url({ ...command("-", { stdin: true }), kind: "attach", containerId: "a2" });
  const result = await drive<Result>("exec", "-url", url, "-stdin", "all of it ");
  t.is(result.stdout.head, "all of it end\n");
});

agentTest("attach: a client that pauses stalls the output, and gets all of it", async (t) => {
  await attachable("a3", `read go; head -c ${16 * MIB} /dev/zero`, { stdin: true, stdinOnce: false });
  const url = server.url({ ...command("-", { stdin: true }), kind: "attach", containerId: "a3" });
  const result = await drive<Result>("exec", "-url", url, "-stdin", "go\n", "-stall-after", "1", "-stall", "2s");
  t.is(result.error, "");
  t.is(result.stdout.bytes, 16 * MIB);
});
