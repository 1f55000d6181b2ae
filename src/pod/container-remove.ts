import { rm } from "node:fs/promises";
import type { Container } from "./container.js";
import { endLocked, VM_KILLED } from "./container-exit.js";
import type { PodContext } from "./context.js";
import { positionPath } from "./output.js";

const REMOVE_MS = 30_000;

/** CRI RemoveContainer: by force where it runs. Idempotent. */
export async function removeContainer(ctx: PodContext, id: string): Promise<void> {
  const container = ctx.registry.findContainer(id);
  if (!container) return;
  await ctx.locks.run(`container:${container.id}`, () => removeLocked(ctx, container));
}

/** The same for a caller that holds the container's lock. */
export async function removeLocked(ctx: PodContext, container: Container): Promise<void> {
  if (ctx.registry.findContainer(container.id) !== container) return;
  const pod = ctx.registry.findPod(container.document.podId);
  try {
    if (pod?.ready)
      await pod.call((agent, deadlineMs) => agent.removeContainer(container.id, { deadlineMs }), REMOVE_MS);
  } catch (err) {
    if (pod?.ready) throw err; // else its VM has died meanwhile, and the container with it
  }
  await endLocked(ctx, container, VM_KILLED).catch((err) => {
    // On a full disk too it can be removed: its document is about to go.
    ctx.logger.warn("cannot record the end of a container that is being removed", { err, container: container.id });
  });
  if (pod?.ready) await pod.volumes?.release(container.id);
  await container.pump?.close();
  container.pump = undefined;
  await rm(positionPath(ctx, container.id), { force: true });
  await ctx.containerDocuments.delete(container.id);
  ctx.registry.deleteContainer(container);
  ctx.events.emit("deleted", pod, container);
}
