import { Budget } from "../host/budget.js";
import { PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { sizeOf } from "./sizing.js";
import type { Resources } from "./types.js";

/** All of it: a guest that does not follow must not keep StopPodSandbox waiting for ever. */
const RESIZE_MS = 60_000;

export interface SandboxChange {
  resources?: Resources;
  overhead?: Resources;
}

/**
 * CRI UpdatePodSandboxResources: the VM gets the memory and CPUs that the new limits ask for (sizing.ts), while it runs. The document is written
 * before; a server that dies goes on with it (recovery.ts). Idempotent. The limits of the pod's cgroup on the host are kubelet's to change.
 */
export async function resizeSandbox(ctx: PodContext, id: string, change: SandboxChange): Promise<void> {
  const pod = ctx.registry.pod(id);
  await ctx.locks.run(`pod:${pod.id}`, async () => {
    const { document } = pod;
    if (!pod.ready || !pod.vm) throw pod.notReady();
    const config = { ...document.config };
    if (change.resources) config.resources = merged(config.resources, change.resources);
    if (change.overhead) config.overhead = merged(config.overhead, change.overhead);
    const { capabilities } = ctx.backends.byName(document.vmm);
    if (capabilities.hostKernel) {
      // Its containers are limited where they are, in the pod's cgroup on this host, and that is kubelet's.
      await ctx.podDocuments.put({ ...document, config });
      document.config = config;
      return;
    }
    const size = sizeOf(config, ctx.settings.sizing);
    if (size.memoryMib !== pod.size.memoryMib || size.vcpus !== pod.size.vcpus) {
      if (!capabilities.resize) {
        throw new PodvmError(
          "failed_precondition",
          `the backend ${document.vmm} cannot change memory and CPUs of a running pod: recreate it with the new limits`,
        );
      }
      pod.vm.checkSize(size);
    }
    await ctx.podDocuments.put({ ...document, config, size });
    document.config = config;
    document.size = size;
    await applySize(ctx, pod);
  });
}

/** Brings the VM to the size of the document. To be called with the pod's lock, or where nobody else can. */
export async function applySize(ctx: PodContext, pod: Pod): Promise<void> {
  const { size, vm } = pod;
  if (!vm || !ctx.backends.byName(pod.document.vmm).capabilities.resize) return;
  if (!pod.document.size) return; // it never changed
  // Drivers first: memory that the guest cannot drive would never become its own. CPUs that go are let go of before they are taken away.
  const budget = new Budget(RESIZE_MS, `resize of pod ${pod.id}`);
  const guest = (cpus: number) => {
    const ms = budget.left();
    return pod.call((agent, left) => agent.resize(cpus, left), ms);
  };
  const now = await guest(0);
  if (now.cpus > size.vcpus) await guest(size.vcpus);
  await vm.resize(size, budget.left());
  if (now.cpus < size.vcpus) await guest(size.vcpus);
  ctx.logger.info("a pod's VM has a new size", { pod: pod.id, ...size });
}

/** CRI's zero values mean "not given" (parse-resources.ts), so only what was named changes. */
export function merged(before: Resources | undefined, change: Resources): Resources {
  const unified = { ...before?.unified, ...change.unified };
  return { ...before, ...change, ...(Object.keys(unified).length > 0 && { unified }) };
}
