import type { PodContext } from "../pod/context.js";
import type { StreamingServer } from "../streaming/server.js";
import type { RuntimeHandlers } from "./handlers.js";
import { unimplemented } from "./unimplemented.js";
import { containerVerbs } from "./verbs-container.js";
import { type RuntimeInfo, runtimeVerbs } from "./verbs-runtime.js";
import { sandboxVerbs } from "./verbs-sandbox.js";
import { statsVerbs } from "./verbs-stats.js";
import { streamingVerbs } from "./verbs-streaming.js";

/** Every RPC of RuntimeService: a missing one does not compile. Those below that are not built answer UNIMPLEMENTED with their name. */
export function runtimeHandlers(
  pods: PodContext,
  streaming: Pick<StreamingServer, "url">,
  info: RuntimeInfo,
): RuntimeHandlers {
  return {
    ...runtimeVerbs(pods, info),
    ...sandboxVerbs(pods),
    ...containerVerbs(pods),
    ...statsVerbs(pods),
    ...streamingVerbs(pods, streaming),
    checkpointContainer: unimplemented("CheckpointContainer"),
    checkpointPod: unimplemented("CheckpointPod"),
    restorePod: unimplemented("RestorePod"),
    getContainerEvents: unimplemented("GetContainerEvents"),
    listMetricDescriptors: unimplemented("ListMetricDescriptors"),
    listPodSandboxMetrics: unimplemented("ListPodSandboxMetrics"),
    streamPodSandboxMetrics: unimplemented("StreamPodSandboxMetrics"),
    updatePodSandboxResources: unimplemented("UpdatePodSandboxResources"),
  };
}
