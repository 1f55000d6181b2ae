import { ContainerEventResponse, ContainerEventType } from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import type { PodContext } from "../pod/context.js";
import type { ContainerEvent } from "../pod/events.js";
import { EventQueue } from "./event-queue.js";
import { selectContainers } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { renderContainerStatus, renderPodStatus } from "./render.js";

const TYPES = {
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
} as const;

/** Each event holds the statuses of its pod: a few kilobytes. */
const MAX_WAITING = 1000;
/** kubelet is one; people with crictl are some. */
const MAX_SUBSCRIBERS = 64;

type EventVerbs = Pick<RuntimeHandlers, "getContainerEvents">;

/**
 * kubelet's evented PLEG. As with containerd and CRI-O the sandbox itself has events too, with its own id as the container's, and every event
 * carries the status of its sandbox and of all the sandbox's containers at that moment.
 */
export function eventVerbs(pods: PodContext): EventVerbs {
  return {
    async *getContainerEvents(_request, call) {
      if (pods.events.listenerCount >= MAX_SUBSCRIBERS) {
        throw new PodvmError(
          "resource_exhausted",
          `wanted another subscriber of container events, found ${MAX_SUBSCRIBERS} already: end one of them`,
        );
      }
      const queue = new EventQueue<ContainerEventResponse>(MAX_WAITING);
      const unlisten = pods.events.listen((event) => queue.push(renderEvent(pods, event)));
      const onAbort = () => queue.close(call.signal.reason);
      call.signal.addEventListener("abort", onAbort, { once: true });
      if (call.signal.aborted) onAbort();
      try {
        yield* queue;
      } finally {
        call.signal.removeEventListener("abort", onAbort);
        unlisten();
      }
    },
  };
}

function renderEvent(pods: PodContext, { type, atNs, pod, container }: ContainerEvent): ContainerEventResponse {
  return ContainerEventResponse.fromPartial({
    containerId: container?.id ?? pod.id,
    containerEventType: TYPES[type],
    createdAt: BigInt(atNs),
    podSandboxStatus: renderPodStatus(pod),
    containersStatuses: selectContainers(pods.registry, { podSandboxId: pod.id }).map((one) =>
      renderContainerStatus(one, pods.images),
    ),
  });
}
