import { endContainer, VM_KILLED } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { SIGKILL } from "./signals.js";

/** How long containers get to end and their last output to arrive; then the VM goes with whatever is left. */
const KILL_MS = 3_000;
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
  const { document } = pod;
  if (!document.holdsResources) return;
  if (document.phase !== "stopped") {
    document.phase = "stopped";
    await ctx.podDocuments.put(document);
  }
  await killContainers(ctx, pod);
  await ctx.backends.byName(document.vmm).destroy(document.vm, DESTROY_MS);
  await pod.session?.close();
  pod.session = undefined;
  pod.vm = undefined;
  await ctx.network.teardown(pod.id, NETWORK_MS);
  await Promise.all(ctx.registry.containersOf(pod.id).map((container) => endContainer(ctx, container.id, VM_KILLED)));
  document.holdsResources = false;
  await ctx.podDocuments.put(document);
  ctx.uids.release(document.vm.uid);
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
