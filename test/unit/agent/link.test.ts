import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import test, { type ExecutionContext } from "ava";
import type { Agent } from "../../../src/agent/client.js";
import { connectAgent } from "../../../src/agent/link.js";
import {
  type AgentServer,
  type ContainerInfo,
  ContainerState,
  ExecSyncResponse,
  ExitRecord,
  ListContainersResponse,
  OutputChunk,
  WaitContainerResponse,
} from "../../../src/gen/agent/v1/agent.js";
import { PodvmError } from "../../../src/host/errors.js";
import { silentLogger } from "../../../src/host/log.js";
import { type FakeAgent, type FakeAgentOptions, fakeAgent, helloResponse } from "./fake-agent.js";

interface Setup {
  path: string;
  fake: FakeAgent;
  connect(deadlineMs?: number, connectPort?: number): Promise<Agent>;
}

async function setup(
  t: ExecutionContext,
  methods: Partial<AgentServer> = {},
  options: FakeAgentOptions = {},
): Promise<Setup> {
  const folder = await mkdtemp(join(tmpdir(), "podvm-link-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "agent.sock");
  const fake = await fakeAgent(path, methods, options);
  t.teardown(() => fake.close());
  const connect = async (deadlineMs = 20_000, connectPort?: number) => {
    const address = connectPort === undefined ? { path } : { path, connectPort };
    const agent = await connectAgent(address, { deadlineMs, logger: silentLogger });
    t.teardown(() => agent.close());
    return agent;
  };
  return { path, fake, connect };
}

test("connects, calls, and knows when the connection is gone", async (t) => {
  const { connect, fake } = await setup(t);
  const agent = await connect();
  t.is((await agent.hello({ protocol: 1 })).instance, "i1");
  for (const socket of fake.sockets) socket.destroy();
  await agent.closed;
  const err = await t.throwsAsync<PodvmError>(agent.hello({}));
  t.is(err?.code, "unavailable");
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.is(fake.connections, 1, "no reconnecting behind its owner's back");
});

test("stale bytes of an earlier connection are thrown away, also those that look like an old hello", async (t) => {
  const old = Buffer.concat([Buffer.alloc(8, 0xff), Buffer.from("PODVMHEL"), Buffer.alloc(16, 7)]);
  const stale = Buffer.concat([Buffer.alloc(100_000, 0x55), old, old.subarray(0, 20), Buffer.alloc(9, 0xff)]);
  const { connect } = await setup(t, {}, { stale });
  const agent = await connect();
  t.is((await agent.hello({})).instance, "i1");
});

test("an agent that answers slower than hellos are sent is waited for", async (t) => {
  const { connect, fake } = await setup(t, {}, { echoAfterMs: 1800 });
  const agent = await connect();
  t.is((await agent.hello({})).instance, "i1");
  t.true(fake.hellos.length >= 2);
  const counters = fake.hellos.map((hello) => hello.readUInt32LE(28));
  t.deepEqual(
    counters,
    counters.map((_, i) => i),
  );
  t.is(new Set(fake.hellos.map((hello) => hello.subarray(0, 28).toString("hex"))).size, 1);
});

test("the hybrid vsock handshake is said first, and its refusal told", async (t) => {
  const good = await setup(t, {}, { connect: { line: "CONNECT 1024", reply: "OK 1073741824\n" } });
  const agent = await good.connect(20_000, 1024);
  t.is((await agent.hello({})).instance, "i1");
  const err = await t.throwsAsync<PodvmError>(good.connect(3000, 1025));
  t.is(err?.code, "unavailable");
  t.regex(err?.message ?? "", /port 1025.*FAIL/);
});

test("the deadline's message tells a guest that does not answer from a missing socket", async (t) => {
  const { connect, path } = await setup(t, {}, { mute: true });
  const mute = await t.throwsAsync<PodvmError>(connect(3000));
  t.is(mute?.code, "unavailable");
  t.regex(mute?.message ?? "", /guest does not answer/);
  const missing = await t.throwsAsync<PodvmError>(
    connectAgent({ path: `${path}.no` }, { deadlineMs: 400, logger: silentLogger }),
  );
  t.regex(missing?.message ?? "", /no such socket/);
});

test("a socket that appears later is found, and giving up early works", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-link-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "late.sock");
  const connecting = connectAgent({ path }, { deadlineMs: 30_000, logger: silentLogger });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const fake = await fakeAgent(path);
  t.teardown(() => fake.close());
  const agent = await connecting;
  t.is((await agent.hello({})).instance, "i1");
  agent.close();

  const abort = new AbortController();
  const given = connectAgent(
    { path: `${path}.no` },
    { deadlineMs: 30_000, logger: silentLogger, signal: abort.signal },
  );
  abort.abort();
  t.is((await t.throwsAsync<PodvmError>(given))?.code, "cancelled");
});

test("the agent's statuses become PodvmErrors, its words cleaned of terminal escapes", async (t) => {
  const { connect } = await setup(t, {
    startContainer: (_, callback) => callback({ code: status.FAILED_PRECONDITION, details: "bad\x1b[31m state\u202e" }),
    removeContainer: () => {},
  });
  const agent = await connect();
  const err = await t.throwsAsync<PodvmError>(agent.startContainer("c"));
  t.is(err?.code, "failed_precondition");
  t.is(err?.message, "agent: StartContainer: bad\ufffd[31m state\ufffd");
  const late = await t.throwsAsync<PodvmError>(agent.removeContainer("c", { deadlineMs: 100 }));
  t.is(late?.code, "deadline_exceeded");
  const abort = new AbortController();
  const cancelled = agent.removeContainer("c", { signal: abort.signal });
  abort.abort();
  t.is((await t.throwsAsync<PodvmError>(cancelled))?.code, "cancelled");
  await t.throwsAsync(agent.stats([], { signal: abort.signal }), { message: /cancelled/ });
});

test("answers against the protocol are refused before they are used", async (t) => {
  let containers: Partial<ContainerInfo>[] = [];
  let exit: Partial<ExitRecord> = {};
  let hello = helloResponse();
  const { connect } = await setup(t, {
    hello: (_, callback) => callback(null, hello),
    listContainers: (_, callback) => callback(null, ListContainersResponse.fromPartial({ containers })),
    waitContainer: (_, callback) => callback(null, WaitContainerResponse.fromPartial({ exit })),
    execSync: (_, callback) => callback(null, ExecSyncResponse.fromPartial({ stdout: Buffer.alloc(17 << 20) })),
  });
  const agent = await connect();
  const refused = async (call: Promise<unknown>, what: RegExp) => {
    const err = await t.throwsAsync<PodvmError>(call);
    t.is(err?.code, "internal");
    t.regex(err?.message ?? "", what);
  };
  hello = helloResponse({ kernel: "x".repeat(300) });
  await refused(agent.hello({}), /kernel version of 300 characters/);
  hello = helloResponse({ instance: "" });
  await refused(agent.hello({}), /no instance/);
  hello = helloResponse({ features: Array.from({ length: 5000 }, () => "aaaa") });
  await refused(agent.hello({}), /answered \d+ bytes, at most/);
  containers = [{ containerId: "../../etc" }];
  await refused(agent.listContainers(), /no id/);
  containers = [{ containerId: "c", state: 77 as ContainerState }];
  await refused(agent.listContainers(), /container state 77/);
  containers = [{ containerId: "c", state: ContainerState.CONTAINER_STATE_EXITED }];
  await refused(agent.listContainers(), /without exit record/);
  containers = Array.from({ length: 1025 }, (_, i) => ({ containerId: `c${i}` }));
  await refused(agent.listContainers(), /1025 containers/);
  containers = Array.from({ length: 1024 }, (_, i) => ({ containerId: `c${i}` }));
  t.is((await agent.listContainers()).containers.length, 1024);
  exit = { exitCode: 256 };
  await refused(agent.waitContainer("c", 10), /exit code 256/);
  exit = { exitCode: 137, signal: 9, timeNs: -1n };
  await refused(agent.waitContainer("c", 10), /time of exit/);
  exit = { exitCode: 137, signal: 9, timeNs: 5n };
  t.like(await agent.waitContainer("c", 10), { exitCode: 137, signal: 9 });
  await refused(agent.execSync({ containerId: "c", timeoutMs: 1000 }), /bytes of output/);
});

test("output comes in batches, what arrived before an error is not lost, and acknowledgements do not pile up", async (t) => {
  const acks: bigint[] = [];
  const { connect } = await setup(t, {
    output: (call) => {
      call.on("data", (request) => acks.push(request.stdoutOffset));
      call.on("error", () => {});
      for (let i = 0; i < 100; i++) {
        call.write(OutputChunk.fromPartial({ offset: BigInt(i * 10), data: Buffer.alloc(10, 65) }));
      }
      setTimeout(() => call.emit("error", { code: status.ABORTED, details: "another reader" }), 50);
    },
  });
  const agent = await connect();
  const stream = agent.output("c", 0n, 0n);
  let bytes = 0;
  const err = await t.throwsAsync<PodvmError>(async () => {
    for (;;) {
      const chunks = await stream.next(200);
      if (!chunks) return;
      t.true(chunks.length > 0 && chunks.length <= 20);
      bytes += chunks.reduce((sum, chunk) => sum + chunk.data.length, 0);
      for (let i = 0; i < 100; i++) stream.acknowledge(BigInt(bytes), 0n);
    }
  });
  t.is(bytes, 1000);
  t.is(err?.code, "unavailable");
  t.regex(err?.message ?? "", /another reader/);
  t.true(acks.length < 10_000);
});

test("an oversized or lying output chunk ends the stream with an error", async (t) => {
  let chunk: Partial<OutputChunk> = {};
  const { connect } = await setup(t, {
    output: (call) => {
      call.on("error", () => {});
      call.write(OutputChunk.fromPartial(chunk));
    },
  });
  const agent = await connect();
  for (const [bad, what] of [
    [{ data: Buffer.alloc(65 * 1024 + 1) }, /at most/],
    [{ data: Buffer.alloc(64 * 1024 + 1) }, /at most 64 KiB/],
    [{ stream: 5 as never }, /stream 5/],
    [{ eof: true, data: Buffer.from("x") }, /holds data/],
    [{ offset: 2n ** 60n }, /output offset/],
  ] as const) {
    chunk = bad;
    const stream = agent.output("c", 0n, 0n);
    t.regex((await t.throwsAsync<PodvmError>(stream.next(1)))?.message ?? "", what);
    stream.cancel();
  }
});

test("exec gives its messages in order and misses a missing exit record", async (t) => {
  let polite = true;
  const { connect } = await setup(t, {
    exec: (call) => {
      call.on("error", () => {});
      call.on("data", (request) => {
        if (request.start) call.write({ startedPid: 7 });
        if (request.stdin) call.write({ stdout: request.stdin });
        if (!request.closeStdin) return;
        if (polite) call.write({ exit: ExitRecord.fromPartial({ exitCode: 3 }) });
        call.end();
      });
    },
  });
  const agent = await connect();
  const exec = agent.exec({ containerId: "c", execId: "e", args: ["cat"] });
  t.is((await exec.next())?.startedPid, 7);
  await exec.write(Buffer.from("hello"));
  t.is((await exec.next())?.stdout?.toString(), "hello");
  exec.closeStdin();
  t.is((await exec.next())?.exit?.exitCode, 3);
  t.is(await exec.next(), undefined);
  await t.throwsAsync(exec.write(Buffer.from("x")), { message: /has ended/ });

  polite = false;
  const rude = agent.exec({ containerId: "c", execId: "e2", args: ["cat"] });
  await rude.next();
  rude.closeStdin();
  await t.throwsAsync(rude.next(), { message: /without an exit record/ });
});

test("input tells what was taken, and that the other side ended it", async (t) => {
  let got = 0;
  const { connect } = await setup(t, {
    input: (call, callback) => {
      call.on("data", (request) => {
        got += request.data.length;
        if (got > 1_000_000) callback({ code: status.FAILED_PRECONDITION, details: "stdin is closed" });
      });
      call.on("end", () => callback(null, { written: BigInt(got) }));
    },
  });
  const agent = await connect();
  const input = agent.input("c");
  for (let i = 0; i < 5; i++) await input.write(Buffer.alloc(1000));
  t.is(await input.end(true), 5000n);
  const refused = agent.input("c");
  const err = await t.throwsAsync<PodvmError>(async () => {
    for (;;) await refused.write(Buffer.alloc(100_000));
  });
  t.is(err?.code, "unavailable");
  await t.throwsAsync(refused.done, { message: /stdin is closed/ });
  t.true(err instanceof PodvmError);
});
