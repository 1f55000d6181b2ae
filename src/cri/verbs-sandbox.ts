import type { PodContext } from "../pod/context.js";
import { Parking } from "../pod/parking.js";
import type { Pod } from "../pod/pod.js";
import { podName } from "../pod/registry.js";
import { removeSandbox } from "../pod/sandbox-remove.js";
import { resizeSandbox } from "../pod/sandbox-resize.js";
import { runSandbox } from "../pod/sandbox-run.js";
import { stopSandbox } from "../pod/sandbox-stop.js";
import { inBatches, selectContainers, selectPods } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { parseResources } from "./parse-resources.js";
import { parseSandbox } from "./parse-sandbox.js";
import { renderContainerStatus, renderPod, renderPodStatus } from "./render.js";

type SandboxVerbs = Pick<
  RuntimeHandlers,
  | "runPodSandbox"
  | "stopPodSandbox"
  | "removePodSandbox"
  | "podSandboxStatus"
  | "listPodSandbox"
  | "streamPodSandboxes"
  | "updatePodSandboxResources"
>;

export function sandboxVerbs(pods: PodContext): SandboxVerbs {
  const parking = new Parking<Pod>((pod) => pods.registry.findPod(pod.id) === pod);
  return {
    async runPodSandbox(request, call) {
      const config = parseSandbox(request.config, request.runtimeHandler);
      const pod = await parking.run(podName(config), call.signal, () => runSandbox(pods, config));
      return { podSandboxId: pod.id };
    },

    async stopPodSandbox(request) {
      await stopSandbox(pods, request.podSandboxId);
      return {};
    },

    async removePodSandbox(request) {
      await removeSandbox(pods, request.podSandboxId);
      return {};
    },

    async podSandboxStatus(request) {
      const pod = pods.registry.pod(request.podSandboxId);
      const containers = selectContainers(pods.registry, { podSandboxId: pod.id });
      return {
        status: renderPodStatus(pod),
        info: request.verbose ? await verboseInfo(pod) : {},
        containersStatuses: containers.map((container) => renderContainerStatus(container, pods.images)),
        timestamp: BigInt(Date.now()) * 1_000_000n,
      };
    },

    async updatePodSandboxResources(request) {
      await resizeSandbox(pods, request.podSandboxId, {
        ...(request.resources && { resources: parseResources("resources", request.resources) }),
        ...(request.overhead && { overhead: parseResources("overhead", request.overhead) }),
      });
      return {};
    },

    async listPodSandbox(request) {
      return { items: selectPods(pods.registry, request.filter).map(renderPod) };
    },

    async *streamPodSandboxes(request) {
      for (const batch of inBatches(selectPods(pods.registry, request.filter))) {
        yield { podSandboxes: batch.map(renderPod) };
      }
    },
  };
}

/** crictl inspectp prints it; `podvm ps` reads it. */
async function verboseInfo(pod: Pod): Promise<Record<string, string>> {
  const { document, vm } = pod;
  const cost = await vm?.hostCost().catch(() => undefined); // the VM may die in between: then it costs nothing
  const info = {
    vmm: document.vmm,
    pid: vm?.pid ?? 0,
    uid: document.vm.uid,
    ...pod.size,
    guest: document.vm.guest,
    bundle: document.vm.bundle,
    cgroup: document.vm.cgroup,
    netns: document.network?.netns ?? "",
    ips: document.network?.ips ?? [],
    message: document.message,
    hostMemoryPss: cost?.pss ?? 0,
    hostCpuNs: `${cost?.cpuNs ?? 0n}`,
  };
  return { info: JSON.stringify(info) };
}
