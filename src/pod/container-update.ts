import type { Resources as OciResources } from "../gen/oci/v1/spec.js";
import { Resources as OciResourcesCodec } from "../gen/oci/v1/spec.js";
import { PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";
import { ociResources } from "./oci-spec.js";
import type { Resources } from "./types.js";

const UPDATE_MS = 30_000;
const MIB = 1024 * 1024;

/** CRI UpdateContainerResources: what is named changes, now, in the guest's cgroup. The VM's own size does not change yet. */
export async function updateContainer(ctx: PodContext, id: string, change: Resources): Promise<void> {
  const container = ctx.registry.container(id);
  const pod = ctx.registry.pod(container.document.podId);
  await ctx.locks.run(`container:${container.id}`, async () => {
    const { document } = container;
    if (document.state !== "created" && document.state !== "running") throw container.wrongState("created or running");
    const vmMib = pod.document.vm.memoryMib;
    if ((change.memoryLimit ?? 0) > vmMib * MIB) {
      throw new PodvmError(
        "failed_precondition",
        `a memory limit of ${change.memoryLimit} bytes is more than the pod's VM has (${vmMib} MiB), and the VM cannot grow yet; recreate the pod`,
      );
    }
    const resources: OciResources = OciResourcesCodec.fromPartial(ociResources(change));
    await pod.call(
      (agent) => agent.updateContainer({ containerId: container.id, resources }, { deadlineMs: UPDATE_MS }),
      UPDATE_MS,
    );
    document.config.resources = { ...document.config.resources, ...change };
    await ctx.containerDocuments.put(document);
  });
}
