import type { ContainerFilter, PodSandboxFilter } from "../gen/runtime/v1/api.js";
import type { Container } from "../pod/container.js";
import type { Pod } from "../pod/pod.js";
import type { PodRegistry } from "../pod/registry.js";
import { containerState, podState } from "./render.js";

/** CRI's list filters: what is given must all match; ids may be shortened as everywhere. */

function matchesLabels(labels: Record<string, string>, selector: Record<string, string>): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}

export function selectPods(registry: PodRegistry, filter: Partial<PodSandboxFilter> | undefined): Pod[] {
  const { id = "", state, labelSelector = {} } = filter ?? {};
  return registry
    .pods()
    .filter((pod) => pod.document.phase !== "creating")
    .filter((pod) => pod.id.startsWith(id))
    .filter((pod) => !state || podState(pod) === state.state)
    .filter((pod) => matchesLabels(pod.document.config.labels, labelSelector));
}

export function selectContainers(registry: PodRegistry, filter: Partial<ContainerFilter> | undefined): Container[] {
  const { id = "", podSandboxId = "", state, labelSelector = {} } = filter ?? {};
  return registry
    .containers()
    .filter((container) => container.document.state !== "creating")
    .filter((container) => container.id.startsWith(id))
    .filter((container) => container.document.podId.startsWith(podSandboxId))
    .filter((container) => !state || containerState(container) === state.state)
    .filter((container) => matchesLabels(container.document.config.labels, labelSelector));
}

/** For the streaming lists: messages that stay far below gRPC's limit. */
export function* inBatches<T>(items: readonly T[], size = 100): Generator<T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}
