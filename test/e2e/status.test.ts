/** Status, statistics, metrics, events, and resources that change while the pod runs: with crictl, and by gRPC where it has no command. */
import { spawn } from "node:child_process";
import { call, connect } from "../../src/cli/client.js";
import {
  type ContainerEventResponse,
  ContainerEventType,
  type LinuxContainerResources,
  Signal,
  UpdateContainerResourcesRequest,
} from "../../src/gen/runtime/v1/api.js";
import { endChild } from "../support/child.js";
import { busybox, containerConfig } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite({ images: "all", toml: { vm: "max_vcpus = 2" } });
const MIB = 1024 * 1024;

test.before(async () => {
  await podvm().crictl.run("pull", busybox);
});

interface Metrics {
  podMetrics: {
    podSandboxId: string;
    metrics: Metric[];
    containerMetrics: { containerId: string; metrics: Metric[] }[];
  }[];
}
interface Metric {
  name: string;
  labelValues: string[];
  value: { value: string };
}

/** A command that holds so many MiB of memory, which cannot be had back, and waits. */
const holding = (mib: number) => ["sh", "-c", `dd if=/dev/zero of=/dev/shm/held bs=1M count=${mib}; exec sleep 3600`];

test("statistics of container and pod: working set, pressure, processes, network, writable layer", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith({
    command: ["sh", "-c", "head -c 3m /dev/urandom > /file; while :; do :; done"],
    linux: { resources: { memory_limit_in_bytes: 64 * MIB } },
  });
  // biome-ignore lint/suspicious/noExplicitAny: crictl's JSON
  type Any = any;
  const stats = await until("the file is counted", 30_000, async () => {
    const [one] = (await crictl.json<Any>("stats", "-o", "json", "--id", id)).stats;
    return Number(one.writableLayer.usedBytes.value) >= 3 * MIB && one.cpu.usageNanoCores && one;
  });
  const number = (value: { value: string } | null) => Number(value?.value ?? Number.NaN);
  t.true(number(stats.cpu.usageCoreNanoSeconds) > 0);
  t.true(number(stats.cpu.usageNanoCores) > 0 && number(stats.cpu.usageNanoCores) <= 1e9);
  const workingSet = number(stats.memory.workingSetBytes);
  t.true(workingSet > 0 && workingSet <= number(stats.memory.usageBytes));
  t.is(number(stats.memory.availableBytes), 64 * MIB - workingSet);
  t.true(Math.abs(Date.now() - Number(BigInt(stats.cpu.timestamp) / 1_000_000n)) < 60_000);
  t.truthy(stats.cpu.psi?.Some, "the guest's kernel measures pressure");

  const [pod] = (await crictl.json<Any>("statsp", "-o", "json", "--id", podId)).stats;
  const { linux } = pod;
  t.true(number(linux.cpu.usageCoreNanoSeconds) >= number(stats.cpu.usageCoreNanoSeconds));
  t.true(number(linux.memory.workingSetBytes) > workingSet);
  t.true(number(linux.memory.workingSetBytes) < 512 * MIB);
  t.is(linux.network.defaultInterface.name, "eth0");
  t.true(number(linux.process.processCount) >= 1 && number(linux.process.processCount) < 20);
  t.is(linux.containers.length, 1);
  const { status: disks } = await crictl.json<Any>("imagefsinfo", "-o", "json");
  const taken = number(disks.containerFilesystems[0].usedBytes);
  t.true(taken >= 256 * 1024 && taken < 1024 * MIB, `${taken} bytes in the writable disk of a pod that wrote 3 MiB`);
  t.true(number(disks.imageFilesystems[0].usedBytes) > MIB);
  await podvm().removePod(podId);
});

test("metrics under cAdvisor's names, each with its descriptor; what the VM costs the node is among them", async (t) => {
  const { crictl } = podvm();
  const { podId, id, config } = await podvm().podWith({ name: "shop" });
  const { descriptors } = await crictl.json<{ descriptors: { name: string; labelKeys: string[] }[] }>("metricdescs");
  const keys = new Map(descriptors.map((one) => [one.name, one.labelKeys]));
  const { podMetrics } = await crictl.json<Metrics>("metricsp");
  const pod = podMetrics.find((one) => one.podSandboxId === podId);
  const container = pod?.containerMetrics.find((one) => one.containerId === id);
  if (!pod || !container) throw new Error("no metrics of the pod or of its container");
  for (const { name, labelValues } of [...pod.metrics, ...container.metrics]) {
    t.is(labelValues.length, keys.get(name)?.length ?? -1, name);
  }
  const named = (list: Metric[], name: string) => list.find((metric) => metric.name === name);
  const workingSet = named(container.metrics, "container_memory_working_set_bytes");
  t.deepEqual(workingSet?.labelValues, ["shop", id, busybox, id, "default", config.metadata.name]);
  t.true(Number(workingSet?.value.value) > 0);
  t.is(named(container.metrics, "container_processes")?.value.value, "1");
  t.is(named(container.metrics, "container_oom_events_total")?.value.value, "0");
  t.is(named(pod.metrics, "container_network_transmit_bytes_total")?.labelValues.at(-1), "eth0");
  const host = Number(named(pod.metrics, "podvm_pod_host_memory_pss_bytes")?.value.value);
  t.true(host > 50 * MIB, `${host}`);
  const { info } = await crictl.json<{ info: { hostMemoryPss: number } }>("inspectp", "-o", "json", podId);
  t.true(Math.abs(info.hostMemoryPss - host) < 100 * MIB);
  await podvm().removePod(podId);
});

test("events of pod and container, to several readers, with the statuses of the moment; the server's end ends them", async (t) => {
  const server = podvm();
  const crictl = spawn(server.crictl.path, server.crictl.args("events", "-o", "json"), {
    stdio: ["ignore", "pipe", "ignore"],
  });
  t.teardown(() => endChild(crictl));
  let printed = "";
  crictl.stdout.setEncoding("utf8").on("data", (text: string) => {
    printed += text;
  });
  const clients = connect(server.socket);
  t.teardown(() => clients.close());
  const events: ContainerEventResponse[] = [];
  const stream = clients.runtime.getContainerEvents({});
  stream.on("data", (event: ContainerEventResponse) => events.push(event));
  const ended = new Promise<Error>((resolve) => stream.once("error", resolve));

  const { podId, id } = await server.podWith({ command: ["sh", "-c", "exit 3"] });
  await until("the container has ended", 30_000, () =>
    events.some((event) => event.containerId === id && isType(event, "STOPPED")),
  );
  await server.removePod(podId);
  await until("the sandbox is gone", 10_000, () =>
    events.some((event) => event.containerId === podId && isType(event, "DELETED")),
  );

  const types = (wanted: string) =>
    events.filter((event) => event.containerId === wanted).map((event) => ContainerEventType[event.containerEventType]);
  const life = ["CREATED", "STARTED", "STOPPED", "DELETED"].map((name) => `CONTAINER_${name}_EVENT`);
  t.deepEqual(types(id), life);
  t.deepEqual(types(podId), life);
  const stopped = events.find((event) => event.containerId === id && isType(event, "STOPPED"));
  t.is(stopped?.podSandboxStatus?.id, podId);
  t.like(stopped?.containersStatuses[0], { id, exitCode: 3, reason: "Error" });
  t.true(events.every((event, i) => i === 0 || event.createdAt >= (events[i - 1]?.createdAt ?? 0n)));
  await until(
    "crictl has printed the same",
    10_000,
    () => printed.includes(podId) && printed.includes("CONTAINER_DELETED_EVENT"),
  );

  await server.stop();
  t.regex((await ended).message, /UNAVAILABLE.*stopping/);
  await server.start();
});

function isType(event: ContainerEventResponse, name: string): boolean {
  return ContainerEventType[event.containerEventType] === `CONTAINER_${name}_EVENT`;
}

test("a status is whole: user, image, resources, stop signal, and why it ended", async (t) => {
  const { crictl } = podvm();
  const clients = connect(podvm().socket);
  t.teardown(() => clients.close());
  const config = podvm().pod();
  const podId = await crictl.runp(config);
  const resources = { cpu_period: 100_000, cpu_quota: 50_000, cpu_shares: 512, memory_limit_in_bytes: 64 * MIB };
  const id = await crictl.start(
    podId,
    containerConfig({
      command: ["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=90M count=1"],
      linux: { resources, security_context: { run_as_user: { value: 7 }, supplemental_groups: [9] } },
    }),
    config,
  );
  const status = await until("it has ended", 60_000, async () => {
    const answer = await call(clients, clients.runtime, "containerStatus", { containerId: id, verbose: false });
    return answer.status && answer.status.finishedAt > 0n && answer.status;
  });
  const image = await crictl.imageTagged(busybox);
  t.like(status, { reason: "OOMKilled", imageRef: image.id, imageId: image.id });
  t.is(status.image?.image, busybox);
  t.deepEqual(status.user?.linux?.uid, 7n);
  t.true(status.user?.linux?.supplementalGroups.includes(9n));
  t.like(status.resources?.linux, {
    cpuPeriod: 100_000n,
    cpuQuota: 50_000n,
    cpuShares: 512n,
    memoryLimitInBytes: BigInt(64 * MIB),
  });
  t.is(status.stopSignal, Signal.SIGNAL_SIGTERM);
  t.true(
    status.createdAt > 0n &&
      status.startedAt >= status.createdAt - 10_000_000n &&
      status.finishedAt >= status.startedAt,
  );
  const [listed] = await crictl.containers("--id", id);
  t.is(listed?.imageId, image.id);
  const whole = await call(clients, clients.runtime, "podSandboxStatus", { podSandboxId: podId, verbose: false });
  t.deepEqual(whole.containersStatuses, [status]);
  t.truthy(whole.status?.network?.ip);
  await podvm().removePod(podId);
});

test("a container's resources change while it runs; what cannot be is refused with the reason, and changes nothing", async (t) => {
  const { crictl } = podvm();
  const clients = connect(podvm().socket);
  t.teardown(() => clients.close());
  const { podId, id } = await podvm().podWith({
    command: holding(40),
    linux: { resources: { memory_limit_in_bytes: 128 * MIB } },
  });
  const file = (name: string) => crictl.exec(id, "cat", `/sys/fs/cgroup/${name}`);
  await until("its memory is in use", 60_000, async () => Number(await file("memory.current")) > 40 * MIB);
  await crictl.run(
    "update",
    "--memory",
    `${100 * MIB}`,
    "--cpu-quota",
    "30000",
    "--cpu-period",
    "100000",
    "--cpuset-cpus",
    "0",
    id,
  );
  t.is(await file("memory.max"), `${100 * MIB}`);
  t.is(await file("cpu.max"), "30000 100000");
  t.is(await file("cpuset.cpus"), "0");
  const linux = async () => {
    const answer = await call(clients, clients.runtime, "containerStatus", { containerId: id, verbose: false });
    return answer.status?.resources?.linux;
  };
  t.like(await linux(), { memoryLimitInBytes: BigInt(100 * MIB), cpuQuota: 30_000n, cpusetCpus: "0" });

  t.regex(await crictl.fails("update", "--memory", `${10 * MIB}`, id), /cannot give back/);
  t.regex(await crictl.fails("update", "--cpuset-cpus", "0,5", id), /has no CPU 5/);
  t.regex(
    await crictl.fails("update", "--memory", `${4096 * MIB}`, id),
    /more than the pod's VM has.*UpdatePodSandboxResources/,
  );
  const unified = (key: string, value: string) =>
    call(clients, clients.runtime, "updateContainerResources", updateOf(id, { unified: { [key]: value } }));
  await t.throwsAsync(unified("cgroup.kill", "1"), { message: /wanted a cgroup file/ });
  await t.throwsAsync(unified("memory.high", "much"), { message: /does not take it/ });
  await unified("memory.high", `${90 * MIB}`);
  t.is(await file("memory.high"), `${90 * MIB}`);
  t.is(await file("memory.max"), `${100 * MIB}`);
  t.like(await linux(), { memoryLimitInBytes: BigInt(100 * MIB), unified: { "memory.high": `${90 * MIB}` } });
  await podvm().removePod(podId);
});

test("the VM grows and shrinks with the pod's resources, and a server that comes back knows its size", async (t) => {
  const server = podvm();
  const { crictl } = server;
  const limits = { memory_limit_in_bytes: 128 * MIB, cpu_quota: 100_000, cpu_period: 100_000 };
  const { podId, id } = await server.podWith({ linux: { resources: limits } }, { linux: { resources: limits } });
  const clients = connect(server.socket);
  t.teardown(() => clients.close());
  const resize = (memoryMib: number, cpus: number) => {
    const request = updateOf("", {
      memoryLimitInBytes: BigInt(memoryMib * MIB),
      cpuQuota: BigInt(cpus * 100_000),
      cpuPeriod: 100_000n,
    });
    return call(
      clients,
      clients.runtime,
      "updatePodSandboxResources",
      { podSandboxId: podId, overhead: undefined, resources: request.linux },
      120_000,
    );
  };
  const guest = async () => {
    const memory = await crictl.exec(id, "sh", "-c", "grep MemTotal /proc/meminfo");
    const cpus = await crictl.exec(id, "sh", "-c", "grep -c ^processor /proc/cpuinfo");
    return { mib: Number(memory.match(/\d+/)?.[0]) / 1024, cpus: Number(cpus) };
  };
  const first = await guest();
  t.is(first.cpus, 1);

  await resize(400, 2);
  const grown = await guest();
  t.is(grown.cpus, 2);
  t.true(grown.mib > first.mib + 250, `${first.mib} MiB, then ${grown.mib} MiB`);
  await crictl.run("update", "--memory", `${384 * MIB}`, id);
  t.is(await crictl.exec(id, "cat", "/sys/fs/cgroup/memory.max"), `${384 * MIB}`);

  await server.restart();
  const info = async () => (await crictl.json<{ info: object }>("inspectp", "-o", "json", podId)).info;
  t.like(await info(), { memoryMib: 400 + 128, vcpus: 2 });
  await resize(400, 2); // idempotent
  t.deepEqual(await guest(), grown);

  await t.throwsAsync(resize(400, 3), { message: /at most \d+ MiB and 2 CPUs/ });
  await t.throwsAsync(resize(1 << 22, 1), { message: /this node has/ });
  t.like(await info(), { memoryMib: 400 + 128, vcpus: 2 });

  await crictl.run("update", "--memory", `${128 * MIB}`, id);
  await resize(128, 1);
  const shrunk = await guest();
  t.is(shrunk.cpus, 1);
  t.true(Math.abs(shrunk.mib - first.mib) < 30, `${first.mib} MiB, then ${shrunk.mib} MiB`);
  await server.removePod(podId);
});

type Linux = NonNullable<Parameters<typeof LinuxContainerResources.fromPartial>[0]>;

function updateOf(containerId: string, linux: Linux): UpdateContainerResourcesRequest {
  return UpdateContainerResourcesRequest.fromPartial({ containerId, linux });
}

test("Status says what the handlers can, RuntimeConfig which cgroup driver", async (t) => {
  const clients = connect(podvm().socket);
  t.teardown(() => clients.close());
  const { runtimeHandlers, features } = await call(clients, clients.runtime, "status", { verbose: false });
  t.true(runtimeHandlers.some(({ name }) => name === "") && runtimeHandlers.some(({ name }) => name === "podvm"));
  t.true(features?.supplementalGroupsPolicy);
  const able = new Map(runtimeHandlers.map((handler) => [handler.name, handler.features?.userNamespaces]));
  t.is(able.get("podvm"), true);
  t.is(able.get("host"), false);
  // A feature that is told of is there: a pod with users of its own in its VM, and none without a VM.
  const mapping = [{ host_id: 100_000, container_id: 0, length: 65_536 }];
  const options = { pid: 1, userns_options: { mode: 0, uids: mapping, gids: mapping } };
  const linuxOf = { security_context: { namespace_options: options } };
  const config = podvm().pod({ linux: linuxOf });
  const podId = await podvm().crictl.runp(config);
  const id = await podvm().crictl.start(podId, containerConfig({ linux: linuxOf }), config);
  t.regex(await podvm().crictl.exec(id, "cat", "/proc/self/uid_map"), /^\s*0\s+\d+\s+65536$/);
  t.regex(
    await podvm().crictl.fails("runp", "--runtime", "host", await podvm().crictl.file(config)),
    /user namespace|host_namespaces/,
  );
  await podvm().removePod(podId);
  const { linux } = await call(clients, clients.runtime, "runtimeConfig", {});
  t.is(linux?.cgroupDriver, 1); // cgroupfs
});
