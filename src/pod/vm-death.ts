import type { VmExit } from "../vmm/vmm.js";
import { endContainer } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";

/**
 * A VM is gone that nobody stopped: its containers have exited (137) and the sandbox is NotReady, at once. What it held on the host goes with
 * StopPodSandbox, which kubelet calls next.
 */
export async function onVmDeath(ctx: PodContext, pod: Pod, exit: VmExit): Promise<void> {
  const { document } = pod;
  if (document.phase === "stopped") return; // StopPodSandbox ended it
  ctx.logger.error("the VM of a pod died", { pod: pod.id, reason: exit.reason });
  const created = document.phase === "ready";
  document.phase = "stopped"; // in memory first: from now on no verb uses it
  document.message = `the virtual machine died: ${exit.reason}`;
  void pod.session?.close();
  pod.vm = undefined;
  if (!created) return; // RunPodSandbox is at work, sees this, and undoes all
  const end = { exitCode: 137, reason: "VmDied", message: document.message };
  const recorded = await Promise.allSettled([
    ctx.podDocuments.put(document),
    ...ctx.registry.containersOf(pod.id).map((container) => endContainer(ctx, container.id, end)),
  ]);
  ctx.events.emit("stopped", pod);
  // On a full disk the truth is in memory only; a server that starts anew finds the VM gone.
  for (const result of recorded) if (result.status === "rejected") throw result.reason;
}
