import {
  ContainerStats as ContainerStatsCodec,
  type ContainerStatsFilter,
  type ContainerStats as CriContainerStats,
  type PodSandboxStats,
  PodSandboxStats as PodSandboxStatsCodec,
  type PodSandboxStatsFilter,
} from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import type { Container } from "../pod/container.js";
import type { PodContext } from "../pod/context.js";
import { type PodStats, StatsReader } from "../pod/stats.js";
import { inBatches, selectContainers, selectPods } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { containerMetadata, podMetadata } from "./render.js";

type StatsVerbs = Pick<
  RuntimeHandlers,
  | "containerStats"
  | "listContainerStats"
  | "streamContainerStats"
  | "podSandboxStats"
  | "listPodSandboxStats"
  | "streamPodSandboxStats"
>;

export function statsVerbs(pods: PodContext): StatsVerbs {
  const reader = new StatsReader(pods);

  const ofContainers = async (filter: Partial<ContainerStatsFilter> | undefined): Promise<CriContainerStats[]> => {
    const wanted = new Set<Container>(selectContainers(pods.registry, filter).filter((container) => container.running));
    const owners = new Set([...wanted].map((container) => container.document.podId));
    const readings = await reader.readAll(pods.registry.pods().filter((pod) => owners.has(pod.id)));
    return readings.flatMap((reading) =>
      reading.containers.filter(({ container }) => wanted.has(container)).map((one) => renderContainerStats(pods, one)),
    );
  };
  const ofPods = async (filter: Partial<PodSandboxStatsFilter> | undefined): Promise<PodSandboxStats[]> => {
    const ready = selectPods(pods.registry, filter).filter((pod) => pod.ready);
    return (await reader.readAll(ready)).map((reading) => renderPodStats(pods, reading));
  };

  return {
    async containerStats(request) {
      const container = pods.registry.container(request.containerId);
      const [stats] = await ofContainers({ id: container.id });
      if (!stats)
        throw new PodvmError("failed_precondition", `container ${container.id} is not running: it has no statistics`);
      return { stats };
    },

    async listContainerStats(request) {
      return { stats: await ofContainers(request.filter) };
    },

    async *streamContainerStats(request) {
      for (const batch of inBatches(await ofContainers(request.filter))) yield { containerStats: batch };
    },

    async podSandboxStats(request) {
      const pod = pods.registry.pod(request.podSandboxId);
      if (!pod.ready) throw pod.notReady();
      return { stats: renderPodStats(pods, await reader.read(pod)) };
    },

    async listPodSandboxStats(request) {
      return { stats: await ofPods(request.filter) };
    },

    async *streamPodSandboxStats(request) {
      for (const batch of inBatches(await ofPods(request.filter))) yield { podSandboxStats: batch };
    },
  };
}

const value = (number: bigint) => ({ value: number });

function renderContainerStats(pods: PodContext, reading: PodStats["containers"][number]): CriContainerStats {
  const { container, stats, nanoCores } = reading;
  const { config } = container.document;
  const timestamp = stats.timeNs;
  const available = stats.memoryLimit > stats.memoryWorkingSet ? stats.memoryLimit - stats.memoryWorkingSet : undefined;
  return ContainerStatsCodec.fromPartial({
    attributes: {
      id: container.id,
      metadata: containerMetadata(container),
      labels: config.labels,
      annotations: config.annotations,
    },
    cpu: {
      timestamp,
      usageCoreNanoSeconds: value(stats.cpuUsageNs),
      usageNanoCores: nanoCores === undefined ? undefined : value(nanoCores),
    },
    memory: {
      timestamp,
      workingSetBytes: value(stats.memoryWorkingSet),
      availableBytes: available === undefined ? undefined : value(available),
      usageBytes: value(stats.memoryUsage),
      rssBytes: value(stats.memoryRss),
      pageFaults: value(stats.memoryPageFaults),
      majorPageFaults: value(stats.memoryMajorPageFaults),
    },
    writableLayer: {
      timestamp,
      fsId: { mountpoint: pods.settings.stateDir },
      usedBytes: value(stats.fsUsed),
      inodesUsed: value(stats.fsInodes),
    },
  });
}

/** The pod's CPU and memory are the host's view of its VM: what the pod really costs the node. The containers' are the guest's. */
function renderPodStats(pods: PodContext, reading: PodStats): PodSandboxStats {
  const { pod, guest, host, nanoCores } = reading;
  const { labels, annotations } = pod.document.config;
  const timestamp = BigInt(Date.now()) * 1_000_000n;
  const interfaces = (guest?.interfaces ?? []).map((one) => ({
    name: one.name,
    rxBytes: value(one.rxBytes),
    rxErrors: value(one.rxErrors),
    txBytes: value(one.txBytes),
    txErrors: value(one.txErrors),
  }));
  return PodSandboxStatsCodec.fromPartial({
    attributes: { id: pod.id, metadata: podMetadata(pod), labels, annotations },
    linux: {
      cpu: host && {
        timestamp,
        usageCoreNanoSeconds: value(host.cpuNs),
        usageNanoCores: nanoCores === undefined ? undefined : value(nanoCores),
      },
      memory: host && {
        timestamp,
        workingSetBytes: value(BigInt(host.pss)),
        usageBytes: value(BigInt(host.pss)),
        rssBytes: value(BigInt(host.rss)),
      },
      network: guest && {
        timestamp,
        defaultInterface: interfaces.find((one) => one.name === "eth0"),
        interfaces: interfaces.filter((one) => one.name !== "eth0"),
      },
      process: guest && { timestamp, processCount: value(guest.processes) },
      containers: reading.containers.map((one) => renderContainerStats(pods, one)),
    },
  });
}
