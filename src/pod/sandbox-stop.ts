import { endContainer, VM_KILLED } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { SIGKILL } from "./signals.js";

/** How long containers get to end and their last output to arrive; then the VM goes with whatever is left. */
const KILL_MS = 3_000;
const SHARE_MS = 10_000;
const DESTROY_MS = 20_000;
const NETWORK_MS = 60_000;

/**
 * CRI StopPodSandbox: ends what runs, then VM and network; the sandbox stays, NotReady. Idempotent; a repeated call goes on where the last
 * one failed. Never waits for the guest without a deadline.
 */
export async function stopSandbox(ctx: PodContext, id: string): Promise<void> {
  const found = ctx.registry.findPod(id);
  if (!found) return; // CRI: idempotent, also when it has been removed
  await ctx.locks.run(`pod:${found.id}`, () => stopLocked(ctx, found));
}

export async function stopLocked(ctx: PodContext, pod: Pod): Promise<void> {
  if (!pod.document.holdsResources) return;
  await tearDown(ctx, pod);
  await ctx.podDocuments.put({ ...pod.document, holdsResources: false });
  letGo(ctx, pod);
}

/** Nothing of the pod is on the node any more but its documents. */
export function letGo(ctx: PodContext, pod: Pod): void {
  if (!pod.document.holdsResources) return;
  pod.document.holdsResources = false;
  ctx.uids.release(pod.document.vm.uid);
}

/**
 * Ends containers, VM and network. To be followed by `letGo`. Documents that cannot be written do not stop it: on a full disk pods must still be
 * stopped, that is how it gets free; and what a server that starts anew finds on disk leads it to the same end.
 */
export async function tearDown(ctx: PodContext, pod: Pod): Promise<void> {
  const { document } = pod;
  const logger = ctx.logger.child({ pod: pod.id });
  const wasUp = document.phase === "ready";
  if (document.phase !== "stopped") {
    document.phase = "stopped";
    await ctx.podDocuments.put(document).catch((err) => logger.error("cannot record that the pod is stopped", { err }));
  }
  await killContainers(ctx, pod);
  await ctx.shares?.stop(document.vm, SHARE_MS);
  await ctx.backends.byName(document.vmm).destroy(document.vm, DESTROY_MS);
  await pod.session?.close();
  pod.session = undefined;
  pod.vm = undefined;
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (container.document.state === "creating") continue; // its creation fails, and cleans up, by itself
    await endContainer(ctx, container.id, VM_KILLED).catch((err) =>
      logger.error("cannot record a container's end", { err }),
    );
  }
  if (wasUp) ctx.events.emit("stopped", pod);
  await ctx.network.teardown(pod.id, NETWORK_MS);
}

/** By way of the agent, so that the exit records are true and the last output reaches the logs. */
async function killContainers(ctx: PodContext, pod: Pod): Promise<void> {
  const running = ctx.registry.containersOf(pod.id).filter((container) => container.running);
  if (running.length === 0 || !pod.session || !pod.vm) return;
  try {
    const agent = await pod.session.agent(KILL_MS);
    await Promise.all(
      running.map(async (container) => {
        await agent.signalContainer(container.id, SIGKILL, true, { deadlineMs: KILL_MS });
        await container.waitExit(KILL_MS);
      }),
    );
  } catch (err) {
    ctx.logger.warn("the agent did not end the containers in time; the VM is killed", { err, pod: pod.id });
  }
}
