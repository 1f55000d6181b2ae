import { CgroupDriver } from "../gen/runtime/v1/api.js";
import type { PodContext } from "../pod/context.js";
import { text } from "./checks.js";
import type { RuntimeHandlers } from "./handlers.js";

export interface RuntimeInfo {
  version: string;
  /** RuntimeClass handlers that RunPodSandbox takes; "" is the default. */
  handlers: string[];
  /** For Status with verbose: anything that helps to find out what this node runs. */
  verbose: () => Promise<Record<string, unknown>>;
}

type RuntimeVerbs = Pick<RuntimeHandlers, "version" | "status" | "runtimeConfig" | "updateRuntimeConfig">;

export function runtimeVerbs(pods: PodContext, info: RuntimeInfo): RuntimeVerbs {
  return {
    async version() {
      return { version: "0.1.0", runtimeName: "podvm", runtimeVersion: info.version, runtimeApiVersion: "v1" };
    },

    async status(request) {
      const network = pods.network.status();
      const verbose: Record<string, string> = {};
      if (request.verbose) verbose.config = JSON.stringify(await info.verbose());
      return {
        status: {
          conditions: [
            { type: "RuntimeReady", status: true, reason: "", message: "" },
            { type: "NetworkReady", status: network.ready, reason: network.reason, message: network.message },
          ],
        },
        info: verbose,
        runtimeHandlers: info.handlers.map((name) => ({
          name,
          // The agent makes those in a VM, with a network namespace of theirs; a host pod's is CNI's.
          features: {
            recursiveReadOnlyMounts: true,
            userNamespaces: !pods.backends.forHandler(name).capabilities.hostKernel,
          },
        })),
        features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true },
      };
    },

    async runtimeConfig() {
      // kubelet then names cgroups by path, which PodVM makes itself on cgroup v1 and v2; it has no need of systemd's manager.
      return { linux: { cgroupDriver: CgroupDriver.CGROUPFS } };
    },

    async updateRuntimeConfig(request, call) {
      const podCidr = text(
        "runtime_config.network_config.pod_cidr",
        request.runtimeConfig?.networkConfig?.podCidr ?? "",
        256,
      );
      if (podCidr) call.logger.info("the node's pod CIDR is left to the CNI configuration", { podCidr });
      return {};
    },
  };
}
