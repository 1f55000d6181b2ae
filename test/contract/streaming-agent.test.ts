/** Exec, attach and port-forward from client-go's side of the URL down to the real agent, run as a plain process, with real crun. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { Agent } from "../../src/agent/client.js";
import { connectAgent } from "../../src/agent/link.js";
import { OutputPump } from "../../src/agent/output-pump.js";
import { Mount as OciMount } from "../../src/gen/oci/v1/spec.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import type { PodContext } from "../../src/pod/context.js";
import { createStreamBackend } from "../../src/pod/stream-backend.js";
import { createStreamingServer, type StreamingServer } from "../../src/streaming/server.js";
import { endChild } from "../support/child.js";
import { projectRoot, toolIfThere } from "../support/tools.js";
import { until } from "../support/until.js";
import { command } from "../unit/streaming/echo-backend.js";
import { containerRequest, makeRoot } from "./agent-host.js";

const client = toolIfThere("stream-client");
const binary = process.env.PODVM_AGENT ?? join(projectRoot, "target/x86_64-unknown-linux-musl/release/podvm-agent");
const assets = toolIfThere("assets") ?? process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets";
const crun = [join(assets, "bundle/current/bin/crun"), "/usr/bin/crun"].find((path) => existsSync(path));
const lacking =
  (process.geteuid?.() !== 0 && "not root: containers cannot be made") ||
  (!existsSync(binary) && "no podvm-agent: build it (make agent) or set PODVM_AGENT") ||
  (!crun && "no crun: neither in the runtime bundle nor installed") ||
  (!client && "no stream-client: make test-setup builds it");
if (lacking) console.log(`skipped: streaming down to the agent: ${lacking}`);
const agentTest = lacking ? test.serial.skip : test.serial;

const MIB = 1 << 20;
const dir = mkdtempSync(join(tmpdir(), "podvm-streaming-"));
const socket = join(dir, "agent.sock");
let agentProcess: ChildProcess | undefined;
let agent: Agent;
let server: StreamingServer;
const pumps = new Map<string, OutputPump>();
const configs = new Map<string, { stdin: boolean; stdinOnce: boolean; tty: boolean }>();

test.before(async () => {
  if (lacking || !crun) return;
  makeRoot(join(dir, "image"), ["wc", "stty"]);
  agentProcess = spawn(binary, ["--listen", socket, "--state", join(dir, "state"), "--crun", crun], {
    stdio: "ignore",
  });
  await until("the agent listens", 20_000, () => existsSync(socket));
  agent = await connectAgent({ path: socket }, { deadlineMs: 30_000, logger: silentLogger });
  await agent.configureSandbox({ podId: "pod1", hostname: "test" });
  // Of the pod room only what looks containers and agents up is stood in for.
  const registry = {
    container: (id: string) => ({
      id,
      running: true,
      pump: pumps.get(id),
      document: { podId: "pod1", config: configs.get(id) ?? { stdin: false, stdinOnce: false, tty: false } },
    }),
    pod: () => ({ ready: true, agent: async () => agent }),
  };
  const context = { registry, logger: silentLogger } as unknown as PodContext;
  server = createStreamingServer({ backend: createStreamBackend(context), logger: silentLogger });
  await server.listen();
  const request = containerRequest("c1", `dir:${join(dir, "image")}`, "sleep 1000");
  const terminals = ["newinstance", "ptmxmode=0666", "mode=0620"];
  request.spec?.mounts.push(
    OciMount.fromPartial({ source: "devpts", type: "devpts", destination: "/dev/pts", options: terminals }),
  );
  await agent.createContainer(request);
  await agent.startContainer("c1");
});

test.after.always(async () => {
  await server?.close();
  for (const pump of pumps.values()) await pump.close();
  agent?.close();
  await endChild(agentProcess);
  rmSync(dir, { recursive: true, force: true });
});

interface Result {
  stdout: { bytes: number; head: string };
  stderr: { bytes: number; head: string };
  code: number;
  error: string;
}

async function drive<T>(...args: string[]): Promise<T> {
  const { stdout } = await run([client ?? "", ...args], { deadlineMs: 100_000, maxOutput: MIB });
  return JSON.parse(stdout) as T;
}

/** A shell script in the container, as exec. */
function shell(script: string, more: Parameters<typeof command>[1] = {}) {
  return { ...command("-", more), command: ["sh", "-c", script] };
}

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

async function attachable(id: string, script: string, config: { stdin: boolean; stdinOnce: boolean }): Promise<void> {
  const request = containerRequest(id, `dir:${join(dir, "image")}`, script, config.stdin);
  await agent.createContainer({ ...request, stdinOnce: config.stdinOnce });
  const pump = await OutputPump.open({
    containerId: id,
    source: { agent: async () => agent },
    positionPath: join(dir, `${id}.pos`),
    logger: silentLogger,
  });
  pumps.set(id, pump);
  configs.set(id, { ...config, tty: false });
  await agent.startContainer(id);
}

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

/** A server that echoes, in the namespace that the agent dials in. Its port. */
async function listener(t: ExecutionContext, address: string): Promise<number> {
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.pipe(socket);
  });
  await new Promise<void>((resolve) => echo.listen(0, address, resolve));
  t.teardown(() => echo.close());
  return (echo.address() as net.AddressInfo).port;
}
