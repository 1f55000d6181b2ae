import type { PodContext } from "../pod/context.js";
import { StatsReader } from "../pod/stats.js";
import type { StreamingServer } from "../streaming/server.js";
import type { RuntimeHandlers } from "./handlers.js";
import { unimplemented } from "./unimplemented.js";
import { containerVerbs } from "./verbs-container.js";
import { eventVerbs } from "./verbs-events.js";
import { metricVerbs } from "./verbs-metrics.js";
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
  const reader = new StatsReader(pods);
  return {
    ...runtimeVerbs(pods, info),
    ...sandboxVerbs(pods),
    ...containerVerbs(pods),
    ...statsVerbs(pods, reader),
    ...metricVerbs(pods, reader),
    ...streamingVerbs(pods, streaming),
    ...eventVerbs(pods),
    checkpointContainer: unimplemented("CheckpointContainer"),
    checkpointPod: unimplemented("CheckpointPod"),
    restorePod: unimplemented("RestorePod"),
  };
}
