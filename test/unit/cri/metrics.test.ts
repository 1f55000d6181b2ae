/** Metrics and their descriptors belong together. */
import test from "ava";
import { metricDescriptors, renderMetrics } from "../../../src/cri/verbs-metrics.js";
import { ContainerStats, GuestStats, type Pressure } from "../../../src/gen/agent/v1/agent.js";
import { Container } from "../../../src/pod/container.js";
import { Pod } from "../../../src/pod/pod.js";
import type { PodReading } from "../../../src/pod/stats.js";
import type { ContainerDocument, PodDocument } from "../../../src/pod/types.js";

const pressure: Pressure = {
  some: { totalNs: 9_000_000_000n, avg10: 1, avg60: 1, avg300: 1 },
  full: { totalNs: 1_000_000_000n, avg10: 1, avg60: 1, avg300: 1 },
};

function reading(change: Partial<PodReading> = {}): PodReading {
  const pod = new Pod({
    id: "pod-id",
    config: { name: "web-0", namespace: "shop" },
    vm: { memoryMib: 512, vcpus: 2 },
  } as unknown as PodDocument);
  const container = new Container({
    id: "c-id",
    podId: "pod-id",
    state: "running",
    startedNs: "1700000000000000000",
    config: {
      name: "nginx",
      image: "sha256:abc",
      userSpecifiedImage: "nginx:1",
      resources: { cpuPeriod: 100_000, cpuQuota: 50_000, cpuShares: 512 },
    },
  } as unknown as ContainerDocument);
  const stats = ContainerStats.fromPartial({
    cpuUsageNs: 3_999_999_999n,
    memoryWorkingSet: 4096n,
    cpuPressure: pressure,
    memoryPressure: pressure,
    ioPressure: pressure,
  });
  const guest = GuestStats.fromPartial({
    memoryTotal: 1000n,
    memoryAvailable: 400n,
    interfaces: [{ name: "eth0", rxBytes: 12n }],
  });
  const use = {
    cpuNs: 1n,
    memoryUsage: 700n,
    memoryWorkingSet: 600n,
    memoryRss: 1n,
    pageFaults: { all: 1n, major: 1n },
  };
  return {
    pod,
    hasVm: true,
    use,
    guest,
    atNs: 5n,
    stale: false,
    containers: [{ container, stats, atNs: 5n }],
    ...change,
  };
}

test("descriptors have names of their own, help, and cAdvisor's labels first", (t) => {
  const descriptors = metricDescriptors();
  t.is(new Set(descriptors.map(({ name }) => name)).size, descriptors.length);
  for (const { name, help, labelKeys } of descriptors) {
    t.regex(name, /^(container|podvm)_[a-z_]+$/);
    t.not(help, "");
    t.deepEqual(labelKeys.slice(0, 6), ["container", "id", "image", "name", "namespace", "pod"]);
  }
});

test("every metric has a descriptor with as many labels, and every descriptor a metric", (t) => {
  const keys = new Map(metricDescriptors().map(({ name, labelKeys }) => [name, labelKeys]));
  const host = { pss: 1, rss: 2, cpuNs: 3n };
  const { metrics, containerMetrics } = renderMetrics(reading(), host);
  const all = [...metrics, ...containerMetrics.flatMap((one) => one.metrics)];
  for (const { name, labelValues } of all) t.is(labelValues.length, keys.get(name)?.length ?? -1, name);
  t.deepEqual(
    [...keys.keys()].filter((name) => !all.some((metric) => metric.name === name)),
    [],
  );
});

test("a container's metric names container, image, pod and namespace; the pod's own no container", (t) => {
  const { metrics, containerMetrics } = renderMetrics(reading(), undefined);
  const find = (list: typeof metrics, name: string) => list.find((metric) => metric.name === name);
  const cpu = find(containerMetrics[0]?.metrics ?? [], "container_cpu_usage_seconds_total");
  t.deepEqual(cpu?.labelValues, ["nginx", "c-id", "nginx:1", "c-id", "shop", "web-0", "total"]);
  t.is(cpu?.value?.value, 3n);
  const received = find(metrics, "container_network_receive_bytes_total");
  t.deepEqual(received?.labelValues, ["", "pod-id", "", "pod-id", "shop", "web-0", "eth0"]);
  t.is(received?.value?.value, 12n);
  t.is(find(metrics, "container_memory_working_set_bytes")?.value?.value, 600n);
  t.is(find(metrics, "podvm_pod_vm_memory_bytes")?.value?.value, 512n << 20n);
  t.is(find(metrics, "podvm_pod_host_memory_pss_bytes"), undefined, "no VMM, no cost");
});

test("what was read live has no time, what stands in for a silent guest its own", (t) => {
  const times = (answer: ReturnType<typeof renderMetrics>) => new Set(answer.metrics.map(({ timestamp }) => timestamp));
  t.deepEqual(times(renderMetrics(reading(), undefined)), new Set([0n]));
  t.deepEqual(times(renderMetrics(reading({ stale: true }), undefined)), new Set([5n]));
});

test("what the guest's kernel does not measure is left out", (t) => {
  const bare = reading();
  const [one] = bare.containers;
  if (!one) throw new Error("no container");
  const stats = { ...one.stats, cpuPressure: undefined };
  const { containerMetrics } = renderMetrics({ ...bare, containers: [{ ...one, stats }] }, undefined);
  const names = new Set(containerMetrics[0]?.metrics.map(({ name }) => name));
  t.false(names.has("container_pressure_cpu_waiting_seconds_total"));
  t.true(names.has("container_pressure_io_waiting_seconds_total"));
});

test("of a pod without a VM nothing is told that is the host's", (t) => {
  const use = { cpuNs: 1n, memoryUsage: 2n, memoryWorkingSet: 1n };
  const bare = reading({ hasVm: false, use });
  bare.pod.document.vm.hostNamespaces = ["network"];
  const { metrics } = renderMetrics(bare, undefined);
  const names = new Set(metrics.map(({ name }) => name));
  for (const name of ["container_memory_rss", "podvm_pod_vm_cpus", "container_network_receive_bytes_total"]) {
    t.false(names.has(name), name);
  }
  t.true(names.has("container_memory_working_set_bytes"));
});
