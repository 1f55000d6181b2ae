/** The streaming server against Kubernetes' own client library (k8s.io/client-go), in a program that test/setup builds. */
import test, { type ExecutionContext } from "ava";
import { run } from "../../src/host/run.js";
import type { StreamRequest } from "../../src/streaming/session.js";
import { toolIfThere } from "../support/tools.js";
import { until } from "../support/until.js";
import { command, echoServer } from "../unit/streaming/echo-backend.js";

const client = toolIfThere("stream-client");
const clientTest = client ? test : test.skip;
if (!client) console.log("skipped: streaming against client-go: no stream-client (make test-setup builds it)");

const MIB = 1 << 20;

interface Output {
  bytes: number;
  sha256: string;
  head: string;
}
interface ExecResult {
  stdout: Output;
  stderr: Output;
  code: number;
  error: string;
}
interface ForwardResult {
  good: number;
  errors: string[] | null;
  said: string;
  end: string;
}

async function stream<T>(...args: string[]): Promise<T> {
  const { stdout } = await run([client ?? "", ...args], { deadlineMs: 90_000, maxOutput: MIB });
  return JSON.parse(stdout) as T;
}

type Proto = "spdy" | "ws";

async function exec(t: ExecutionContext, proto: Proto, request: StreamRequest, ...args: string[]): Promise<ExecResult> {
  const { server } = await echoServer(t);
  return stream("exec", "-url", server.url(request), "-proto", proto, ...args);
}

const JSON_PROTOCOLS: [Proto, string][] = [
  ["spdy", "v4.channel.k8s.io"],
  ["ws", "v5.channel.k8s.io"],
  ["ws", "v4.channel.k8s.io"],
];
const OLD_PROTOCOLS: [Proto, string][] = [
  ["spdy", "v3.channel.k8s.io"],
  ["spdy", "v2.channel.k8s.io"],
  ["spdy", "channel.k8s.io"],
];

for (const [proto, name] of [...JSON_PROTOCOLS, ...OLD_PROTOCOLS]) {
  clientTest(`${proto} ${name}: both outputs, and success`, async (t) => {
    const result = await exec(t, proto, command("say x"), "-protocols", name);
    t.is(result.error, "");
    t.is(result.code, 0);
    t.is(result.stdout.head, "out x");
    t.is(result.stderr.head, "err x");
  });

  clientTest(`${proto} ${name}: only standard error`, async (t) => {
    const result = await exec(t, proto, command("say x", { stdout: false }), "-protocols", name, "-no-stdout");
    t.is(result.error, "");
    t.is(result.stderr.head, "err x");
  });
}

// A client of v1 forgets an error that it reads after the end of the outputs, whichever it sees first.
for (const [proto, name] of [...JSON_PROTOCOLS, ...OLD_PROTOCOLS.slice(0, 2)]) {
  clientTest(`${proto} ${name}: a session that cannot be had says why`, async (t) => {
    const result = await exec(t, proto, command("nonsense"), "-protocols", name);
    t.is(result.code, -1);
    t.regex(result.error, /no command nonsense/);
  });
}

for (const [proto, name] of JSON_PROTOCOLS) {
  for (const code of [1, 126, 255]) {
    clientTest(`${proto} ${name}: exit code ${code}`, async (t) => {
      const result = await exec(t, proto, command(`exit ${code}`), "-protocols", name);
      t.is(result.code, code);
    });
  }
}

for (const [proto, name] of OLD_PROTOCOLS.slice(0, 2)) {
  clientTest(`${proto} ${name}: a failure in words`, async (t) => {
    const result = await exec(t, proto, command("exit 7"), "-protocols", name);
    t.regex(result.error, /command terminated with non-zero exit code: exit status 7/);
  });
}

// Clients of v1, and of v4 over WebSocket, cannot close their input.
for (const [proto, name] of [JSON_PROTOCOLS[0], JSON_PROTOCOLS[1], OLD_PROTOCOLS[0], OLD_PROTOCOLS[1]] as [
  Proto,
  string,
][]) {
  clientTest(`${proto} ${name}: 8 MiB in and out again, until the client closes its input`, async (t) => {
    const args = ["-protocols", name, "-stdin-bytes", String(8 * MIB)];
    const result = await exec(t, proto, command("cat", { stdin: true }), ...args);
    t.is(result.error, "");
    t.is(result.stdout.bytes, 8 * MIB);
    t.is(result.stdout.sha256, await patternDigest(8 * MIB));
  });
}

for (const [proto, name] of [...JSON_PROTOCOLS, OLD_PROTOCOLS[0]] as [Proto, string][]) {
  clientTest(`${proto} ${name}: a terminal with its sizes`, async (t) => {
    const request = command("sizes 2", { tty: true, stdin: true, stderr: false });
    const args = ["-protocols", name, "-tty", "-no-stderr", "-stdin", "x", "-sizes", "80x24,132x50"];
    const result = await exec(t, proto, request, ...args);
    t.is(result.error, "");
    t.is(result.stdout.head, "80x24 132x50 ");
  });
}

for (const proto of ["spdy", "ws"] as const) {
  clientTest(`${proto}: attach, with whatever version the client likes best`, async (t) => {
    const request = { ...command("-", { stdin: true }), kind: "attach" } as const;
    const result = await exec(t, proto, request, "-stdin", "hello");
    t.is(result.error, "");
    t.is(result.stdout.head, "hello");
  });

  clientTest(`${proto}: 256 MiB out`, async (t) => {
    const result = await exec(t, proto, command(`send ${256 * MIB}`));
    t.is(result.error, "");
    t.is(result.stdout.bytes, 256 * MIB);
  });

  clientTest(`${proto}: a client that does not read stalls the command, not the memory`, async (t) => {
    const { server, backend } = await echoServer(t);
    const url = server.url(command(`send ${64 * MIB}`));
    const args = ["-url", url, "-proto", proto, "-stall-after", "1", "-stall", "3s"];
    const reading = stream<ExecResult>("exec", ...args);
    let stood = 0;
    await until("the command stands still", 20_000, async () => {
      const before = backend.written;
      await new Promise((resolve) => setTimeout(resolve, 500));
      stood = backend.written;
      return stood > 0 && stood === before;
    });
    // The kernel's socket buffers, the client's own, and ours.
    t.true(stood < 32 * MIB, `${stood} bytes were taken of a command whose client does not read`);
    const result = await reading;
    t.is(result.error, "");
    t.is(result.stdout.bytes, 64 * MIB);
  });

  clientTest(`${proto}: a command that ends without having read its input`, async (t) => {
    const result = await exec(t, proto, command("exit 3", { stdin: true }), "-stdin-bytes", String(64 * MIB));
    t.is(result.code, 3);
  });

  clientTest(`${proto}: a client that gives up ends the command`, async (t) => {
    const { server, backend } = await echoServer(t);
    const url = server.url(command("idle 60000"));
    const client = stream<ExecResult>("exec", "-url", url, "-proto", proto, "-timeout", "5s");
    await until("the command runs", 5000, () => backend.running === 1);
    const result = await client;
    t.regex(result.error, /deadline/);
    await until("the command's signal", 10_000, () => backend.aborted.length === 1);
    await until("the session's end", 10_000, () => server.load.sessions === 0);
    t.regex(backend.aborted[0] ?? "", /gone/);
  });

  clientTest(`${proto}: forwarded connections, many at once`, async (t) => {
    const { server } = await echoServer(t);
    const url = server.url({ kind: "portforward", podId: "p1", ports: [] });
    const args = ["-url", url, "-proto", proto, "-port", "7", "-connections", "50", "-bytes", String(MIB / 2)];
    const result = await stream<ForwardResult>("forward", ...args);
    t.deepEqual(result.errors, null);
    t.is(result.good, 50);
    t.is(result.end, "");
    await until("the session's end", 10_000, () => server.load.sessions === 0);
  });

  clientTest(`${proto}: a forwarded port that nobody listens on`, async (t) => {
    const { server } = await echoServer(t);
    const url = server.url({ kind: "portforward", podId: "p1", ports: [] });
    const args = ["-url", url, "-proto", proto, "-port", "81", "-bytes", "10"];
    const result = await stream<ForwardResult>("forward", ...args);
    t.is(result.good, 0);
    t.regex(result.end, /lost connection to pod/, "the client learns of the error, and gives up as kubectl does");
  });
}

async function patternDigest(size: number): Promise<string> {
  const { createHash } = await import("node:crypto");
  const bytes = Buffer.alloc(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 7 + Math.floor(i / 251)) & 255;
  return createHash("sha256").update(bytes).digest("hex");
}
