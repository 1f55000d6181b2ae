/** Pods without a virtual machine: where they are allowed, and whether this machine can run them. */
import type { Config } from "../../config/config.js";
import type { Assets } from "../../host/assets.js";
import { silentLogger } from "../../host/log.js";
import { createHostVmm } from "../../vmm/host/backend.js";
import { type Finding, ok, warn } from "./finding.js";

const name = "host pods";

export async function hostPodFindings(config: Config, assets: Assets): Promise<Finding[]> {
  const allowed = config.policy.hostNamespaces;
  if (allowed.length === 0) return [ok(name, "allowed nowhere: every pod has a virtual machine")];
  const { usable, reason } = await createHostVmm({ assets, stateDir: config.stateDir, logger: silentLogger }).status();
  const where = `allowed in ${allowed.join(", ")}`;
  if (!usable) return [warn(name, `${where}, but this machine cannot run them: ${reason}`, "put right what it names")];
  const wide = allowed.filter((pattern) => pattern !== "kube-system");
  if (wide.length === 0) return [ok(name, where)];
  return [
    warn(
      "isolation",
      `pods without a virtual machine are ${where}`,
      "list only namespaces whose pods you trust with the node",
    ),
  ];
}
