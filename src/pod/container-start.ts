import { messageOf } from "../host/errors.js";
import { endLocked } from "./container-exit.js";
import type { PodContext } from "./context.js";

const START_MS = 60_000;

/** CRI StartContainer. A container that does not start has exited with 128, reason StartError, and the call fails with why. */
export async function startContainer(ctx: PodContext, id: string): Promise<void> {
  const container = ctx.registry.container(id);
  const pod = ctx.registry.pod(container.document.podId);
  await ctx.locks.run(`container:${container.id}`, async () => {
    const { document } = container;
    if (document.state !== "created") throw container.wrongState("created");
    if (!pod.ready) throw pod.notReady();
    document.starting = true; // from here on only the agent knows whether it runs
    await ctx.containerDocuments.put(document);
    try {
      const started = await pod.call((agent) => agent.startContainer(container.id, { deadlineMs: START_MS }), START_MS);
      document.startedNs = `${started}`;
      document.state = "running";
      document.starting = false;
      await ctx.containerDocuments.put(document);
    } catch (err) {
      await endLocked(ctx, container, { exitCode: 128, reason: "StartError", message: messageOf(err) });
      throw err;
    }
  });
}
