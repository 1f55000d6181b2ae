import type {
  ContainerStatsFilter,
  ContainerStats as CriContainerStats,
  PodSandboxStats,
  PodSandboxStatsFilter,
} from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import type { Container } from "../pod/container.js";
import type { PodContext } from "../pod/context.js";
import type { StatsReader } from "../pod/stats.js";
import { inBatches, selectContainers, selectPods } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { renderContainerStats, renderPodStats } from "./render-stats.js";

type StatsVerbs = Pick<
  RuntimeHandlers,
  | "containerStats"
  | "listContainerStats"
  | "streamContainerStats"
  | "podSandboxStats"
  | "listPodSandboxStats"
  | "streamPodSandboxStats"
>;

/** A guest that does not answer in time: lists show what it said last, with the time of that, for a minute, and then leave it out. */
export function statsVerbs(pods: PodContext, reader: StatsReader): StatsVerbs {
  const { stateDir } = pods.settings;

  const ofContainers = async (filter: Partial<ContainerStatsFilter> | undefined): Promise<CriContainerStats[]> => {
    const wanted = new Set<Container>(selectContainers(pods.registry, filter).filter((container) => container.running));
    const owners = new Set([...wanted].map((container) => container.document.podId));
    const readings = await reader.readAll(pods.registry.pods().filter((pod) => owners.has(pod.id)));
    return readings.flatMap((reading) =>
      reading.containers
        .filter(({ container }) => wanted.has(container))
        .map((one) => renderContainerStats(one, stateDir)),
    );
  };
  const ofPods = async (filter: Partial<PodSandboxStatsFilter> | undefined): Promise<PodSandboxStats[]> => {
    const ready = selectPods(pods.registry, filter).filter((pod) => pod.ready);
    return (await reader.readAll(ready)).map((reading) => renderPodStats(reading, stateDir));
  };
  const silent = (podId: string) =>
    new PodvmError("unavailable", `the guest of pod sandbox ${podId} does not answer: it has no statistics now`);

  return {
    async containerStats(request) {
      const container = pods.registry.container(request.containerId);
      if (!container.running) {
        throw new PodvmError("failed_precondition", `container ${container.id} is not running: it has no statistics`);
      }
      const [stats] = await ofContainers({ id: container.id });
      if (!stats) throw silent(container.document.podId);
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
      const reading = await reader.read(pod);
      if (!reading) throw silent(pod.id);
      return { stats: renderPodStats(reading, stateDir) };
    },

    async listPodSandboxStats(request) {
      return { stats: await ofPods(request.filter) };
    },

    async *streamPodSandboxStats(request) {
      for (const batch of inBatches(await ofPods(request.filter))) yield { podSandboxStats: batch };
    },
  };
}
