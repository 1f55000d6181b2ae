/**
 * The real server, real VMs, and behind one pod's link an agent that misbehaves. The server's memory stays bounded, it never ends, it believes the
 * guest nothing about other pods, serves them as always, and stops and removes the hostile pod in time.
 */
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ServerDuplexStream, type ServerWritableStream, status } from "@grpc/grpc-js";
import type { ExecutionContext } from "ava";
import {
  type AgentServer,
  ContainerInfo,
  ContainerState,
  ContainerStats,
  CreateContainerResponse,
  Event,
  ExecSyncResponse,
  ListContainersResponse,
  LogRecord,
  OutputChunk,
  type OutputRequest,
  StatsResponse,
  Stream,
} from "../../src/gen/agent/v1/agent.js";
import { busybox, containerConfig } from "../support/manifests.js";
import { processes } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";
import { type FakeAgent, fakeAgent, helloResponse } from "../unit/agent/fake-agent.js";

const { test, podvm } = suite();

/** By how much the server may grow while a guest floods it: some messages of the largest size, and what the collector has not yet taken. */
const MAX_GROWTH = 256 << 20;
/** For StopPodSandbox and RemovePodSandbox together, on a loaded machine. */
const REMOVE_MS = 60_000;
const FAR_FUTURE = 2n ** 62n;

/** What the guest's agent does now; a call that is not named here gets UNIMPLEMENTED. */
let deeds: Partial<AgentServer> = {};
let pod: Awaited<ReturnType<ReturnType<typeof podvm>["podWith"]>>;
let other: typeof pod;
let agent: FakeAgent;
/** Containers that the fake agent says to have. */
const inGuest = new Map<string, ContainerInfo>();

const nowNs = () => BigInt(Date.now()) * 1_000_000n;
const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${podvm().pid}/status`, "utf8"))?.[1]) * 1024;

/** An agent that does nothing wrong yet. */
function plausible(podId: string): Partial<AgentServer> {
  return {
    hello: (_, reply) => reply(null, helloResponse({ podId, instance: "hostile" })),
    listContainers: (_, reply) =>
      reply(null, ListContainersResponse.fromPartial({ containers: [...inGuest.values()] })),
    createContainer: (call, reply) => {
      const { containerId } = call.request;
      inGuest.set(containerId, ContainerInfo.fromPartial({ containerId, createdNs: nowNs() }));
      reply(null, CreateContainerResponse.fromPartial({ pid: 2 }));
    },
    startContainer: (call, reply) => {
      const info = inGuest.get(call.request.containerId);
      if (info) info.state = ContainerState.CONTAINER_STATE_RUNNING;
      reply(null, { startedNs: nowNs() });
    },
    signalContainer: (_, reply) => reply(null, {}),
    removeContainer: (call, reply) => {
      inGuest.delete(call.request.containerId);
      reply(null, {});
    },
    stats: (_, reply) => reply(null, StatsResponse.fromPartial({ guest: {} })),
    output: () => {},
  };
}

/** Puts an agent of this test behind a pod's link, whose deeds can be changed at any time. The server is started anew, and takes it for the guest's. */
async function takeOver(podId: string, initial: Partial<AgentServer>): Promise<FakeAgent> {
  await podvm().kill();
  const socket = join(podvm().runDir, "vms", podId.slice(0, 20), "agent.sock");
  await rm(socket);
  deeds = initial;
  const delegates = Object.fromEntries(
    ["hello", ...Object.keys(plausible("")), "execSync", "events", "logs", "updateContainer"].map((name) => [
      name,
      (call: NodeJS.EventEmitter, reply?: (err: object) => void) => {
        const deed = deeds[name as keyof AgentServer] as ((call: unknown, reply: unknown) => void) | undefined;
        if (deed) deed(call, reply);
        else if (reply) reply({ code: status.UNIMPLEMENTED, details: name });
      },
    ]),
  ) as Partial<AgentServer>;
  const fake = await fakeAgent(socket, delegates);
  await podvm().start();
  return fake;
}

/** Changes the guest's behaviour; streams that run are begun anew with it. */
function behave(change: Partial<AgentServer>): void {
  deeds = { ...plausible(pod.podId), ...change };
  for (const socket of agent.sockets) socket.destroy();
}

/** Writes as fast as the other end takes it, until that has had enough. */
async function flood<T>(call: ServerWritableStream<unknown, T> | ServerDuplexStream<OutputRequest, T>, next: () => T) {
  call.on("error", () => {});
  while (!call.cancelled && !call.destroyed) {
    for (let i = 0; i < 64 && call.write(next()); i++);
    await Promise.race([new Promise((resolve) => call.once("drain", resolve)), sleep(50)]);
  }
}

/** The server lives, is no larger than it may be, and serves the other pod. */
async function unharmed(t: ExecutionContext, before: { pid: number; rss: number }): Promise<void> {
  t.is(podvm().pid, before.pid, "the server has not ended");
  t.true(podvm().running);
  const grown = rss() - before.rss;
  t.true(grown < MAX_GROWTH, `the server grew by ${grown >> 20} MiB`);
  t.is(await podvm().crictl.exec(other.id, "echo", "served"), "served");
  t.is((await podvm().crictl.inspect(other.id)).state, "CONTAINER_RUNNING");
}

const state = () => ({ pid: podvm().pid, rss: rss() });

/** Largest size of the server while `work` goes on. */
async function watched<T>(t: ExecutionContext, work: Promise<T>): Promise<T> {
  const start = rss();
  let most = start;
  const timer = setInterval(() => {
    most = Math.max(most, rss());
  }, 50);
  try {
    return await work;
  } finally {
    clearInterval(timer);
    t.true(most - start < MAX_GROWTH, `the server grew by ${(most - start) >> 20} MiB while it was flooded`);
  }
}

test.before(async (t) => {
  t.timeout(300_000);
  await podvm().crictl.run("pull", busybox);
  other = await podvm().podWith();
  const config = podvm().pod();
  pod = { config, podId: await podvm().crictl.runp(config), id: "" };
  agent = await takeOver(pod.podId, plausible(pod.podId));
  pod.id = await podvm().crictl.start(pod.podId, containerConfig(), config);
});

test.after.always(() => agent?.close());

test.afterEach(() => behave({}));

test("a guest that lies about other pods' containers is not believed", async (t) => {
  const before = state();
  const exit = { exitCode: 3, signal: 0, oomKilled: false, timeNs: nowNs() };
  behave({
    events: (call) => {
      [other.id, other.id.slice(0, 1), "0", pod.podId].forEach((containerId, i) => {
        call.write(Event.fromPartial({ seq: BigInt(i + 1), timeNs: nowNs(), exited: { containerId, exit } }));
      });
    },
    listContainers: (_, reply) => {
      const state = ContainerState.CONTAINER_STATE_EXITED;
      const lies = [other.id, other.id.slice(0, 1)].map((containerId) =>
        ContainerInfo.fromPartial({ containerId, state, exit }),
      );
      reply(null, ListContainersResponse.fromPartial({ containers: [...inGuest.values(), ...lies] }));
    },
    stats: (_, reply) => {
      const lies = [other.id, other.id.slice(0, 1), pod.id.slice(0, 2), pod.id, pod.id].map((containerId) =>
        ContainerStats.fromPartial({ containerId, timeNs: nowNs(), memoryWorkingSet: 2n ** 64n - 1n }),
      );
      reply(null, StatsResponse.fromPartial({ guest: {}, containers: lies }));
    },
  });
  await sleep(1500);
  const { stats } = await podvm().crictl.json<{ stats: { attributes: { id: string } }[] }>("stats", "-o", "json");
  t.deepEqual(stats.map(({ attributes }) => attributes.id).sort(), [other.id, pod.id].sort());
  t.is((await podvm().crictl.inspect(pod.id)).state, "CONTAINER_RUNNING");
  await unharmed(t, before);
});

test("statistics of any size are reported, and those of other pods with them", async (t) => {
  const before = state();
  let cpu = 0n;
  behave({
    stats: (_, reply) => {
      const most = 2n ** 64n - 1n;
      const containerStats = ContainerStats.fromPartial({
        containerId: pod.id,
        timeNs: nowNs(),
        cpuUsageNs: cpu,
        memoryUsage: most,
        memoryWorkingSet: most,
        memoryRss: most,
        fsUsed: most,
        fsInodes: most,
      });
      cpu = most;
      reply(
        null,
        StatsResponse.fromPartial({ containers: [containerStats], guest: { timeNs: nowNs(), processes: most } }),
      );
    },
  });
  for (let i = 0; i < 3; i++) {
    const { stats } = await podvm().crictl.json<{ stats: { attributes: { id: string } }[] }>("stats", "-o", "json");
    t.deepEqual(stats.map(({ attributes }) => attributes.id).sort(), [other.id, pod.id].sort());
    t.true((await podvm().crictl.run("statsp", "-o", "json")).includes(other.podId));
    await sleep(600);
  }
  await unharmed(t, before);
});

test("times of the far future are not passed on", async (t) => {
  const { crictl } = podvm();
  behave({ startContainer: (_, reply) => reply(null, { startedNs: FAR_FUTURE }) });
  const id = await crictl.start(pod.podId, containerConfig(), pod.config);
  const soon = () => Date.now() + 120_000;
  t.true(Date.parse((await crictl.inspect(id)).startedAt) < soon());
  const exit = { exitCode: 0, signal: 0, oomKilled: false, timeNs: FAR_FUTURE };
  behave({
    events: (call) => {
      call.write(Event.fromPartial({ seq: 100n, timeNs: FAR_FUTURE, lost: { firstSeq: 100n } }));
      call.write(Event.fromPartial({ seq: 100n, timeNs: FAR_FUTURE, exited: { containerId: id, exit } }));
    },
  });
  const ended = await until("the exit is recorded", 15_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  t.true(Date.parse(ended.finishedAt) < soon());
  await crictl.run("rm", id);
});

test("messages larger than allowed are refused before they are read", async (t) => {
  const before = state();
  const huge = Buffer.alloc(200 << 20);
  behave({
    execSync: (_, reply) => reply(null, ExecSyncResponse.fromPartial({ stdout: huge })),
    stats: (_, reply) =>
      reply(null, StatsResponse.fromPartial({ guest: {}, containers: [{ containerId: "x".repeat(100 << 20) }] })),
  });
  const said = await watched(t, podvm().crictl.fails("exec", "--sync", pod.id, "cat", "/dev/zero"));
  t.regex(said, /larger than|max/i);
  await watched(t, podvm().crictl.attempt(["stats", "-o", "json"]));
  await unharmed(t, before);
});

test("a guest that floods events, log lines and output makes nothing pile up", async (t) => {
  t.timeout(180_000);
  const { crictl } = podvm();
  const before = state();
  const id = await crictl.start(pod.podId, containerConfig(), pod.config);
  const exit = { exitCode: 1, signal: 0, oomKilled: false, timeNs: nowNs() };
  const data = Buffer.alloc(60_000, "a line without an end ");
  let seq = 0n;
  let lost = 1000n;
  let logs = 0n;
  let offset = 0n;
  behave({
    events: (call) => {
      void flood(call, () => {
        seq += 1n;
        const event = { seq, timeNs: nowNs(), exited: { containerId: id, exit } };
        if (seq % 1000n !== 0n) return Event.fromPartial(event);
        lost += 5000n;
        seq = lost - 1n;
        return Event.fromPartial({ seq: lost, lost: { firstSeq: lost } });
      });
    },
    logs: (call) => {
      void flood(call, () => {
        logs += 1n;
        return LogRecord.fromPartial({ seq: logs, timeNs: nowNs(), level: "error", message: "x".repeat(4000) });
      });
    },
    output: (call) => {
      call.once("data", (first: OutputRequest) => {
        offset = first.stdoutOffset;
        call.on("data", () => {}); // acknowledgements
        void flood(call, () => {
          const chunk = OutputChunk.fromPartial({ stream: Stream.STREAM_STDOUT, offset, timeNs: nowNs(), data });
          offset += BigInt(data.length);
          return chunk;
        });
      });
    },
  });
  await watched(t, sleep(6000));
  behave({});
  await unharmed(t, before);
  const log = readFileSync(podvm().serverLog).length;
  t.true(log < 64 << 20, `the server's own log has ${log >> 20} MiB`);
  await crictl.run("rm", "--force", id);
});

test("a guest that closes every connection at once, or says it is unavailable, keeps nobody busy", async (t) => {
  const before = state();
  const down = { code: status.UNAVAILABLE, details: "no" };
  let calls = 0;
  behave({
    createContainer: (_, reply) => {
      calls += 1;
      reply(down as never);
    },
  });
  const create = podvm().crictl.attempt(
    [
      "--timeout",
      "5s",
      "create",
      pod.podId,
      await podvm().crictl.file(containerConfig()),
      await podvm().crictl.file(pod.config),
    ],
    60_000,
  );
  await sleep(3000);
  t.true(calls < 100, `${calls} calls in 3 s`);
  behave({
    hello: () => {
      for (const socket of agent.sockets) socket.destroy();
    },
  });
  const connections = agent.connections;
  await watched(t, sleep(3000));
  t.true(agent.connections - connections < 100, `${agent.connections - connections} connections in 3 s`);
  t.not((await create).code, 0);
  await unharmed(t, before);
});

test("StopPodSandbox and RemovePodSandbox do not wait for a guest that stalls in CreateContainer", async (t) => {
  t.timeout(240_000);
  const { crictl } = podvm();
  behave({ createContainer: () => {}, signalContainer: () => {}, removeContainer: () => {}, listContainers: () => {} });
  const create = crictl.create(pod.podId, containerConfig(), pod.config);
  create.catch(() => {});
  await sleep(2000);
  const before = state();
  const began = Date.now();
  await podvm().removePod(pod.podId);
  t.true(Date.now() - began < REMOVE_MS, `took ${Date.now() - began} ms`);
  await t.throwsAsync(create);
  t.false((await crictl.pods()).some(({ id }) => id === pod.podId));
  t.deepEqual(
    (await crictl.containers()).map(({ id }) => id),
    [other.id],
  );
  await unharmed(t, before);
});

test("an agent that claims to be another pod's costs its pod the VM, and no other", async (t) => {
  t.timeout(240_000);
  const { crictl } = podvm();
  agent.close();
  const config = podvm().pod();
  pod = { config, podId: await crictl.runp(config), id: "" };
  inGuest.clear();
  agent = await takeOver(pod.podId, plausible(pod.podId));
  pod.id = await crictl.start(pod.podId, containerConfig(), config);
  const before = state();
  behave({ hello: (_, reply) => reply(null, helloResponse({ podId: other.podId, instance: "hostile" })) });
  await until(
    "the sandbox is NotReady",
    20_000,
    async () => (await crictl.inspectp(pod.podId)).state === "SANDBOX_NOTREADY",
  );
  t.is((await crictl.inspect(pod.id)).exitCode, 137);
  await podvm().removePod(pod.podId);
  await unharmed(t, before);
});

test("a VMM that stalls holds up neither other pods, nor the server's start, nor its own removal", async (t) => {
  t.timeout(300_000);
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith();
  const { info } = await crictl.json<{ info: { pid: number } }>("inspectp", "-o", "json", podId);
  process.kill(info.pid, "SIGSTOP");
  const { stats } = await crictl.json<{ stats: { attributes: { id: string } }[] }>("stats", "-o", "json");
  t.deepEqual(
    stats.map(({ attributes }) => attributes.id),
    [other.id],
  );
  await podvm().restart();
  const before = state();
  t.is((await crictl.inspectp(podId)).state, "SANDBOX_NOTREADY", "nothing is Ready that cannot be used");
  t.is((await crictl.inspect(id)).state, "CONTAINER_EXITED");
  await unharmed(t, before);
  const began = Date.now();
  await podvm().removePod(podId);
  t.true(Date.now() - began < REMOVE_MS, `took ${Date.now() - began} ms`);
  t.false(processes(podvm()).some(({ pid }) => pid === info.pid));
  t.false((await crictl.pods()).some((one) => one.id === podId));
  await unharmed(t, before);
});

test("a VMM that stalls in a pod that runs is removed in time", async (t) => {
  t.timeout(300_000);
  const { crictl } = podvm();
  const { podId } = await podvm().podWith();
  const { info } = await crictl.json<{ info: { pid: number } }>("inspectp", "-o", "json", podId);
  process.kill(info.pid, "SIGSTOP");
  const before = state();
  const began = Date.now();
  await podvm().removePod(podId);
  t.true(Date.now() - began < REMOVE_MS, `took ${Date.now() - began} ms`);
  t.false(processes(podvm()).some(({ pid }) => pid === info.pid));
  await unharmed(t, before);
});
