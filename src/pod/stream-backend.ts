import type { StreamBackend } from "../streaming/session.js";
import { attach } from "./attach.js";
import type { PodContext } from "./context.js";
import { execStream } from "./exec-stream.js";
import { portForward } from "./port-forward.js";

/** Serves the streaming room from the pods' agents. The state of pods and containers may have changed since the URL was answered. */
export function createStreamBackend(ctx: PodContext): StreamBackend {
  return {
    exec: (request, io) => execStream(ctx, request, io),
    attach: (request, io) => attach(ctx, request, io),
    portForward: (podId, port, io) => portForward(ctx, podId, port, io),
  };
}
