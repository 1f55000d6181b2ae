import { removeLocked } from "./container-remove.js";
import type { PodContext } from "./context.js";
import { letGo, tearDown } from "./sandbox-stop.js";

/** CRI RemovePodSandbox: stops it if need be, removes its containers and its document. Idempotent. */
export async function removeSandbox(ctx: PodContext, id: string): Promise<void> {
  const pod = ctx.registry.findPod(id);
  if (!pod) return;
  await ctx.locks.run(`pod:${pod.id}`, async () => {
    if (ctx.registry.findPod(pod.id) !== pod) return; // another remove was quicker
    if (pod.document.holdsResources) await tearDown(ctx, pod);
    for (const container of ctx.registry.containersOf(pod.id)) {
      await ctx.locks.run(`container:${container.id}`, () => removeLocked(ctx, container));
    }
    await ctx.podDocuments.delete(pod.id);
    letGo(ctx, pod);
    ctx.registry.deletePod(pod);
  });
}
