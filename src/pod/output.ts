import { join } from "node:path";
import { OutputPump } from "../agent/output-pump.js";
import { PodvmError } from "../host/errors.js";
import type { Container } from "./container.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";

const FOR_EVER_MS = 2 ** 31 - 1;

/** Record of how far a container's log is written; what a restarted server goes on from. */
export function positionPath(ctx: PodContext, containerId: string): string {
  return join(ctx.settings.stateDir, "logs", `${containerId}.pos`);
}

/** Carries the container's output into its log from here on, until both streams have ended. */
export async function startPump(ctx: PodContext, pod: Pod, container: Container): Promise<void> {
  const { logPath } = container.document;
  const source = {
    agent: (deadlineMs: number) => {
      if (!pod.session) return Promise.reject(new PodvmError("cancelled", `the VM of pod ${pod.id} is gone`));
      return pod.session.agent(deadlineMs);
    },
  };
  const pump = await OutputPump.open({
    containerId: container.id,
    source,
    positionPath: positionPath(ctx, container.id),
    logger: ctx.logger.child({ container: container.id }),
    ...(logPath && { logPath }),
  });
  container.pump = pump;
  const finish = async (complete: boolean) => {
    if (!complete) return;
    await pump.close();
    if (container.pump === pump) container.pump = undefined;
    await noteComplete(ctx, container);
  };
  void pump
    .drained(FOR_EVER_MS)
    .then(finish)
    .catch((err) => {
      // A restarted server reads the end of the output once more: nothing is lost or doubled.
      ctx.logger.error("cannot record that a container's log is complete", { err, container: container.id });
    });
}

async function noteComplete(ctx: PodContext, container: Container): Promise<void> {
  const { document } = container;
  document.logComplete = true;
  if (document.state !== "exited") return; // goes to disk with the exit
  await ctx.locks.run(`container:${container.id}`, async () => {
    if (ctx.registry.findContainer(container.id) === container) await ctx.containerDocuments.put(document);
  });
}

/** CRI ReopenContainerLog: kubelet has renamed the file and wants the next lines in a new one. */
export async function reopenLog(ctx: PodContext, id: string): Promise<void> {
  const container = ctx.registry.container(id);
  if (!container.running) throw container.wrongState("running");
  await container.pump?.reopen();
}
