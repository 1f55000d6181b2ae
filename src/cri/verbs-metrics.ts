import type { MetricDescriptor, PodSandboxMetrics } from "../gen/runtime/v1/api.js";
import type { PodContext } from "../pod/context.js";
import { type ContainerReading, hostCost, type PodReading, type StatsReader } from "../pod/stats.js";
import type { HostCost } from "../vmm/vmm.js";
import { inBatches, selectPods } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { CONTAINER_METRICS } from "./metrics/container.js";
import { descriptorOf, metricsOf } from "./metrics/definition.js";
import { POD_METRICS, POD_TOTALS } from "./metrics/pod.js";

type MetricVerbs = Pick<RuntimeHandlers, "listMetricDescriptors" | "listPodSandboxMetrics" | "streamPodSandboxMetrics">;

/** What kubelet serves at /metrics/cadvisor where PodAndContainerStatsFromCRI is on. A guest that does not answer: as with statistics. */
export function metricVerbs(pods: PodContext, reader: StatsReader): MetricVerbs {
  const all = async (): Promise<PodSandboxMetrics[]> => {
    const ready = selectPods(pods.registry, undefined).filter((pod) => pod.ready);
    const answers = await Promise.all(
      ready.map(async (pod) => {
        const [reading, host] = await Promise.all([reader.read(pod), hostCost(pod)]);
        return reading && renderMetrics(reading, host);
      }),
    );
    return answers.filter((answer) => answer !== undefined);
  };
  return {
    async listMetricDescriptors() {
      return { descriptors: metricDescriptors() };
    },

    async listPodSandboxMetrics() {
      return { podMetrics: await all() };
    },

    async *streamPodSandboxMetrics() {
      // A pod's metrics are some ten kilobytes for each of its containers.
      for (const batch of inBatches(await all(), 20)) yield { podSandboxMetrics: batch };
    },
  };
}

/** Names are unique: what POD_TOTALS has is declared with the containers. */
export function metricDescriptors(): MetricDescriptor[] {
  return [...CONTAINER_METRICS.map(descriptorOf), ...POD_METRICS.map(descriptorOf)];
}

export function renderMetrics(reading: PodReading, host: HostCost | undefined): PodSandboxMetrics {
  const timestamp = reading.stale ? reading.atNs : 0n;
  const subject = { reading, host };
  const labels = baseLabels(reading);
  return {
    podSandboxId: reading.pod.id,
    metrics: [
      ...metricsOf(POD_TOTALS, subject, labels, timestamp),
      ...metricsOf(POD_METRICS, subject, labels, timestamp),
    ],
    containerMetrics: reading.containers
      .filter(({ container }) => container.running)
      .map((one) => ({
        containerId: one.container.id,
        metrics: metricsOf(CONTAINER_METRICS, { ...one, guest: reading.guest }, baseLabels(reading, one), timestamp),
      })),
  };
}

/** In the order of BASE_LABELS. As with cAdvisor behind containerd `name` is the id, and the pod's own series name no container. */
function baseLabels({ pod }: PodReading, reading?: ContainerReading): string[] {
  const { name, namespace } = pod.document.config;
  const id = reading?.container.id ?? pod.id;
  const config = reading?.container.document.config;
  return [config?.name ?? "", id, config ? config.userSpecifiedImage || config.image : "", id, namespace, name];
}
