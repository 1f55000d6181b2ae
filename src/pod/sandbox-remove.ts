import { removeLocked } from "./container-remove.js";
import type { PodContext } from "./context.js";
import { letGo, tearDown } from "./sandbox-stop.js";

const DESTROY_MS = 20_000;

/** CRI RemovePodSandbox: stops it if need be, removes its containers and its document. Idempotent. */
export async function removeSandbox(ctx: PodContext, id: string): Promise<void> {
  const pod = ctx.registry.findPod(id);
  if (!pod) return;
  await ctx.locks.run(`pod:${pod.id}`, async () => {
    if (ctx.registry.findPod(pod.id) !== pod) return; // another remove was quicker
    if (pod.document.holdsResources) await tearDown(ctx, pod);
    const containers = ctx.registry.containersOf(pod.id);
    const inTheMaking = containers.some((container) => container.document.state === "creating");
    for (const container of containers) {
      await ctx.locks.run(`container:${container.id}`, () => removeLocked(ctx, container));
    }
    // A creation that was under way may have placed a disk after the VM's folder was removed.
    if (inTheMaking) await ctx.backends.byName(pod.document.vmm).destroy(pod.document.vm, DESTROY_MS);
    await ctx.podDocuments.delete(pod.id);
    letGo(ctx, pod);
    ctx.registry.deletePod(pod);
    ctx.events.emit("deleted", pod);
  });
}
