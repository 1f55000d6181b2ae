import { PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";
import { SIGKILL } from "./signals.js";

const SIGNAL_MS = 10_000;
/** From SIGKILL of everything in the container to its exit record. */
const KILLED_MS = 20_000;

/**
 * CRI StopContainer: the stop signal, at most `timeoutSeconds` of grace, then SIGKILL to every process of the container. Idempotent; a
 * container that never started stays as it is.
 */
export async function stopContainer(ctx: PodContext, id: string, timeoutSeconds: number): Promise<void> {
  const container = ctx.registry.findContainer(id);
  if (!container?.running) return;
  const pod = ctx.registry.pod(container.document.podId);
  const signal = async (number: number, all: boolean) => {
    if (container.exited) return;
    try {
      await pod.call(
        (agent, deadlineMs) => agent.signalContainer(container.id, number, all, { deadlineMs }),
        SIGNAL_MS,
      );
    } catch (err) {
      if (pod.ready || !(await container.waitExit(SIGNAL_MS))) throw err; // else its VM has died, and it with that
    }
  };
  if (timeoutSeconds > 0) {
    await signal(container.document.stopSignal, false);
    if (await container.waitExit(timeoutSeconds * 1000)) return;
  }
  await signal(SIGKILL, true);
  if (await container.waitExit(KILLED_MS)) return;
  throw new PodvmError(
    "deadline_exceeded",
    `container ${container.id} has not ended ${KILLED_MS} ms after SIGKILL; StopPodSandbox ends it with its VM`,
  );
}
