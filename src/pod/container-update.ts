import type { Resources as OciResources } from "../gen/oci/v1/spec.js";
import { Resources as OciResourcesCodec } from "../gen/oci/v1/spec.js";
import { PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";
import { ociResources } from "./oci-spec.js";
import { merged } from "./sandbox-resize.js";
import type { Resources } from "./types.js";

const UPDATE_MS = 30_000;
const MIB = 1024 * 1024;

/** CRI UpdateContainerResources: what is named changes, now, in the guest's cgroup. The VM's own size changes with the pod's (sandbox-resize.ts). */
export async function updateContainer(ctx: PodContext, id: string, change: Resources): Promise<void> {
  const container = ctx.registry.container(id);
  const pod = ctx.registry.pod(container.document.podId);
  await ctx.locks.run(`container:${container.id}`, async () => {
    const { document } = container;
    if (document.state !== "created" && document.state !== "running") throw container.wrongState("created or running");
    const vmMib = pod.size.memoryMib;
    const { hostKernel } = ctx.backends.byName(pod.document.vmm).capabilities;
    if (!hostKernel && (change.memoryLimit ?? 0) > vmMib * MIB) {
      throw new PodvmError(
        "failed_precondition",
        `a memory limit of ${change.memoryLimit} bytes is more than the pod's VM has (${vmMib} MiB): raise the pod's own resources first (UpdatePodSandboxResources, as kubelet does), and the VM grows`,
      );
    }
    const resources: OciResources = OciResourcesCodec.fromPartial(ociResources(change));
    const request = { containerId: container.id, resources, oomScoreAdj: change.oomScoreAdj };
    await pod.call((agent, deadlineMs) => agent.updateContainer(request, { deadlineMs }), UPDATE_MS);
    document.config.resources = merged(document.config.resources, change);
    await ctx.containerDocuments.put(document);
  });
}
