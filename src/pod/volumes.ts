import type { AgentSession } from "../agent/session.js";
import type { Vm } from "../vmm/vmm.js";
import { PodVolumes } from "../volume/pod-volumes.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";

/** The volumes of a pod whose VM runs; they are attended for as long as the session lasts. */
export function podVolumes(ctx: PodContext, pod: Pod, vm: Vm, session: AgentSession): PodVolumes {
  const { document } = pod;
  document.volumes ??= [];
  return new PodVolumes({
    podUid: document.config.uid,
    vm: document.vm,
    documents: document.volumes,
    async save() {
      // Once it is stopped, others write and delete the document, and its volumes end with its VM.
      if (pod.ready) await ctx.podDocuments.put(document);
    },
    agent: (deadlineMs) => session.agent(deadlineMs),
    call: (work, deadlineMs) => pod.call(work, deadlineMs),
    attach: (disk, deadlineMs) => vm.attachBlock(disk, deadlineMs),
    hasContainer: (id) => ctx.registry.containerOf(pod.id, id) !== undefined,
    images: ctx.images,
    shares: ctx.shares,
    sockets: ctx.settings.sockets,
    logger: ctx.logger.child({ pod: pod.id }),
    signal: session.signal,
  });
}
