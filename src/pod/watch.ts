import { AgentSession } from "../agent/session.js";
import type { PodvmError } from "../host/errors.js";
import type { Vm } from "../vmm/vmm.js";
import { endContainer, exitOf } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { compareAgain } from "./recovery.js";
import { onVmDeath } from "./vm-death.js";
import { podVolumes } from "./volumes.js";

const DESTROY_MS = 20_000;

/** From the start of a VM, or from finding it again, to its end: the session with its agent, its events, and its death. */
export function watchVm(ctx: PodContext, pod: Pod, vm: Vm, serverVersion: string): void {
  const logger = ctx.logger.child({ pod: pod.id });
  const session = new AgentSession({ address: vm.link, podId: pod.id, serverVersion, logger });
  pod.session = session;
  pod.volumes = podVolumes(ctx, pod, vm, session);

  const once = onePerKey((err) => logger.warn("cannot record what the guest reports", { err }));
  // Events resume by number, but a guest that dropped some must not leave a container running for ever.
  const compare = () => once("", () => compareAgain(ctx, pod));
  session.on("event", (event) => {
    if (event.lost) compare();
    const exit = event.exited?.exit;
    const container = exit && ctx.registry.containerOf(pod.id, event.exited?.containerId ?? "");
    // Not there: it speaks of another pod's containers, or of one that was removed meanwhile.
    if (container) once(container.id, () => endContainer(ctx, container.id, exitOf(exit)));
  });
  session.on("reconnected", compare);
  session.on("failed", (err) => {
    void endUntrusted(ctx, pod, err).catch((cause) => logger.error("cannot end a pod that is lost", { err: cause }));
  });
  void vm.exited
    .then((exit) => onVmDeath(ctx, pod, exit))
    .catch((err) => logger.error("cannot record the death of a VM", { err }));
}

/** Work that a guest causes, one at a time per key and one waiting: a guest that floods makes nothing pile up. */
function onePerKey(onError: (err: unknown) => void): (key: string, work: () => Promise<void>) => void {
  const running = new Map<string, { again?: () => Promise<void> }>();
  const run = async (key: string, work: () => Promise<void>) => {
    const state: { again?: () => Promise<void> } = {};
    running.set(key, state);
    for (let next: (() => Promise<void>) | undefined = work; next; ) {
      await next().catch(onError);
      next = state.again;
      delete state.again;
    }
    running.delete(key);
  };
  return (key, work) => {
    const state = running.get(key);
    if (state) state.again = work;
    else void run(key, work);
  };
}

/** Another agent sits behind the link than the one that was there: nothing that this VM says counts any more. */
async function endUntrusted(ctx: PodContext, pod: Pod, err: PodvmError): Promise<void> {
  await ctx.locks.run(`pod:${pod.id}`, async () => {
    if (!pod.ready) return;
    const dead = onVmDeath(ctx, pod, { reason: err.message });
    await ctx.backends.byName(pod.document.vmm).destroy(pod.document.vm, DESTROY_MS);
    await dead;
  });
}
