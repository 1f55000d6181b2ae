import { AgentSession } from "../agent/session.js";
import type { Event } from "../gen/agent/v1/agent.js";
import type { Vm } from "../vmm/vmm.js";
import { endContainer, exitOf } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { compareWithGuest } from "./recovery.js";
import { onVmDeath } from "./vm-death.js";

/** From the start of a VM, or from finding it again, to its end: the session with its agent, its events, and its death. */
export function watchVm(ctx: PodContext, pod: Pod, vm: Vm, serverVersion: string): void {
  const logger = ctx.logger.child({ pod: pod.id });
  const session = new AgentSession({ address: vm.link, podId: pod.id, serverVersion, logger });
  pod.session = session;

  session.on("event", (event) => {
    void takeEvent(ctx, pod, event).catch((err) => logger.error("cannot record what the guest reports", { err }));
  });
  session.on("reconnected", () => {
    // Events resume by number, but a guest that dropped some must not leave a container running for ever.
    void compareWithGuest(ctx, pod).catch((err) => logger.warn("cannot compare with the guest", { err }));
  });
  session.on("failed", (err) => logger.error("the pod's agent cannot be used; stop the pod", { err }));
  void vm.exited
    .then((exit) => onVmDeath(ctx, pod, exit))
    .catch((err) => logger.error("cannot record the death of a VM", { err }));
}

async function takeEvent(ctx: PodContext, pod: Pod, event: Event): Promise<void> {
  if (event.lost) return compareWithGuest(ctx, pod);
  if (!event.exited?.exit) return;
  const container = ctx.registry.findContainer(event.exited.containerId);
  if (container?.document.podId !== pod.id) return; // a guest speaks of its own containers only; or it was removed meanwhile
  await endContainer(ctx, container.id, exitOf(event.exited.exit));
}
