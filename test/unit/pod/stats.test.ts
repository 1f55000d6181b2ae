/** Statistics of guests that are slow, silent, or say what cannot be. */
import test from "ava";
import { ContainerStats, GuestStats, type StatsResponse } from "../../../src/gen/agent/v1/agent.js";
import { silentLogger } from "../../../src/host/log.js";
import { Container } from "../../../src/pod/container.js";
import type { PodContext } from "../../../src/pod/context.js";
import { Pod } from "../../../src/pod/pod.js";
import { PodRegistry } from "../../../src/pod/registry.js";
import { StatsReader } from "../../../src/pod/stats.js";
import type { ContainerDocument, PodDocument } from "../../../src/pod/types.js";

const nowNs = () => BigInt(Date.now()) * 1_000_000n;

/** A pod whose guest answers what `answer` gives. */
function rig(answer: () => Promise<StatsResponse>) {
  const registry = new PodRegistry();
  const backends = { byName: () => ({ capabilities: { hostKernel: false } }) };
  const ctx = { registry, logger: silentLogger, backends } as unknown as PodContext;
  let asked = 0;
  const add = (name: string, stats = answer) => {
    const vm = { memoryMib: 512, vcpus: 2 };
    const pod = new Pod({ id: name, phase: "ready", config: { name }, vm, message: "" } as unknown as PodDocument);
    const agent = {
      stats: () => {
        asked += 1;
        return stats();
      },
    };
    pod.session = { agent: async () => agent } as unknown as NonNullable<Pod["session"]>;
    registry.addPod(pod);
    return pod;
  };
  const pod = add("pod-1");
  const id = "a".repeat(64);
  const container = new Container({
    id,
    podId: "pod-1",
    state: "running",
    config: { name: "c", attempt: 0 },
  } as unknown as ContainerDocument);
  registry.addContainer(container);
  return { reader: new StatsReader(ctx), registry, pod, container, add, asked: () => asked };
}

const said = (id: string, more: Partial<ContainerStats> = {}, guest: Partial<GuestStats> = {}): StatsResponse => ({
  containers: [ContainerStats.fromPartial({ containerId: id, timeNs: nowNs(), cpuUsageNs: 5n, ...more })],
  guest: GuestStats.fromPartial({ timeNs: nowNs(), cpuUsageNs: 7n, ...guest }),
});

test("those who ask at the same time share one reading, and so do those who ask soon after", async (t) => {
  const { reader, pod, asked, container } = rig(async () => said("a".repeat(64)));
  const [first, second] = await Promise.all([reader.read(pod), reader.read(pod)]);
  await reader.read(pod);
  t.is(asked(), 1);
  t.is(first?.containers[0]?.container, container);
  t.is(second?.guest.cpuUsageNs, 7n);
  t.false(first?.stale);
});

test("a guest speaks of its own containers, once each, and not of the future", async (t) => {
  const { reader, pod } = rig(async () => {
    const one = said("a".repeat(64), { timeNs: nowNs() + 3_600_000_000_000n });
    const [stats] = one.containers;
    if (!stats) throw new Error("nothing said");
    return { ...one, containers: [stats, stats, { ...stats, containerId: "b".repeat(64) }] };
  });
  const reading = await reader.read(pod);
  t.is(reading?.containers.length, 1);
  t.true((reading?.containers[0]?.atNs ?? 0n) <= nowNs());
});

test("a guest that falls silent is shown as it was, with the time of that; one that never spoke is left out", async (t) => {
  let silent = false;
  const { reader, pod, add } = rig(async () => {
    if (silent) throw new Error("no answer");
    return said("a".repeat(64));
  });
  const mute = add("pod-2", async () => {
    throw new Error("no answer");
  });
  const before = await reader.read(pod);
  silent = true;
  await new Promise((resolve) => setTimeout(resolve, 600));
  const all = await reader.readAll([pod, mute]);
  t.is(all.length, 1);
  t.true(all[0]?.stale);
  t.is(all[0]?.atNs, before?.atNs);
});

test("what is kept of a container goes with it", async (t) => {
  const { reader, registry, pod, container } = rig(async () => said("a".repeat(64)));
  t.is((await reader.read(pod))?.containers.length, 1);
  registry.deleteContainer(container);
  t.is((await reader.read(pod))?.containers.length, 0);
});

test("a pod that is not ready has none", async (t) => {
  const { reader, pod, asked } = rig(async () => said("a".repeat(64)));
  pod.document.phase = "stopped";
  t.is(await reader.read(pod), undefined);
  t.is(asked(), 0);
});

test("CPU rates are no more than the VM has CPUs", async (t) => {
  let cpuUsageNs = 0n;
  let timeNs = nowNs() - 60_000_000_000n;
  const { reader, pod } = rig(async () => said("a".repeat(64), { cpuUsageNs, timeNs }, { cpuUsageNs, timeNs }));
  t.is((await reader.read(pod))?.nanoCores, undefined);
  await new Promise((resolve) => setTimeout(resolve, 600));
  cpuUsageNs = 3_600_000_000_000n;
  timeNs += 1_000_000_000n;
  const reading = await reader.read(pod);
  t.is(reading?.nanoCores, 2_000_000_000n);
  t.is(reading?.containers[0]?.nanoCores, 2_000_000_000n);
});
