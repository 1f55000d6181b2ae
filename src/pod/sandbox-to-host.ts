/**
 * Bidirectional mounts are known only when a container asks for one, and by then the pod may have a VM. Where nothing has been in that
 * yet the pod goes on without it: same sandbox, same network namespace and addresses, the agent as a process of the host.
 */
import { PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";
import { requireHost } from "./host-policy.js";
import type { Pod } from "./pod.js";
import { startAgent } from "./sandbox-run.js";
import type { ContainerConfig } from "./types.js";
import { onVmDeath } from "./vm-death.js";

const DESTROY_MS = 20_000;
const NETWORK_MS = 30_000;

/** Makes sure that the container's bidirectional mounts are possible. Rejects with failed_precondition where they are not, or not allowed. */
export async function readyForPropagation(ctx: PodContext, pod: Pod, config: ContainerConfig): Promise<void> {
  const mount = config.mounts.find(({ propagation }) => propagation === "bidirectional");
  if (!mount || isOnHost(ctx, pod)) return;
  const what = `mount ${mount.containerPath} with bidirectional propagation`;
  try {
    requireHost(pod.document.config, ctx.settings.hostPods, what);
  } catch (err) {
    ctx.logger.warn("refused a container that asks for the host", { pod: pod.id, err });
    throw err;
  }
  await ctx.locks.run(`pod:${pod.id}`, async () => {
    if (!pod.ready) throw pod.notReady();
    if (isOnHost(ctx, pod)) return; // another container was quicker
    if (ctx.registry.containersOf(pod.id).length > 0) {
      throw new PodvmError(
        "failed_precondition",
        `${what}: the pod has containers in its virtual machine already. Give it the RuntimeClass with the handler "host", so that it has none`,
      );
    }
    await move(ctx, pod);
  });
}

export function isOnHost(ctx: PodContext, pod: Pod): boolean {
  return ctx.backends.byName(pod.document.vmm).capabilities.hostKernel;
}

/** After a failure the sandbox is NotReady: StopPodSandbox clears it away, and its client makes another. */
async function move(ctx: PodContext, pod: Pod): Promise<void> {
  const { document } = pod;
  const from = ctx.backends.byName(document.vmm);
  const to = ctx.backends.onHost();
  ctx.logger.info("the pod runs without a virtual machine from now on: a container wants bidirectional propagation", {
    pod: pod.id,
    name: `${document.config.namespace}/${document.config.name}`,
  });
  const { vm, session } = pod;
  pod.vm = undefined; // its death is no news
  pod.session = undefined;
  try {
    await session?.close();
    vm?.release();
    await from.destroy(document.vm, DESTROY_MS);
    // From here on the document names the new backend; what it finds of the old one it removes too.
    document.vmm = to.name;
    document.vm.hostNamespaces = [];
    document.vm.disks = [];
    await ctx.podDocuments.put(document);
    if (document.vm.network) {
      document.network = await ctx.network.leaveToHost(pod.id, NETWORK_MS);
      document.vm.network.tap = "";
    }
    await ctx.podDocuments.put(document);
    await startAgent(ctx, pod, to);
  } catch (err) {
    await onVmDeath(ctx, pod, { reason: `it could not be moved to the host: ${PodvmError.from(err).message}` });
    throw err;
  }
}
