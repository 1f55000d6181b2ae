/**
 * Which pods may run without a virtual machine. Nothing separates such a pod from the node but namespaces: only what the configuration
 * names may, and a pod that asks for less never gets it.
 */
import { PodvmError } from "../host/errors.js";
import { HOST_HANDLER } from "../vmm/registry.js";
import type { HostNamespace } from "../vmm/vmm.js";
import type { PodConfig } from "./types.js";

export interface HostPolicy {
  /** Kubernetes namespaces, or their beginning followed by "*". */
  namespaces: readonly string[];
  /**
   * What a pod gets that asks for the host's PID namespace and nothing else of the host. "host": that, in the namespaces above; elsewhere, and
   * with "guest" always, it stays in its VM and sees all processes of that.
   */
  hostPid: "host" | "guest";
}

/** Their names in a pod's manifest. */
const FIELDS: Record<HostNamespace, string> = { network: "hostNetwork", pid: "hostPID", ipc: "hostIPC" };

/** Whether the pod has to run without a VM. Rejects with failed_precondition where it would have to and may not. */
export function runsOnHost(config: PodConfig, policy: HostPolicy): boolean {
  const reasons = reasonsFor(config, policy);
  if (reasons.length === 0) return false;
  const reason = reasons.join(" and ");
  requireHost(config, policy, reason);
  if (config.userNamespace) {
    throw new PodvmError(
      "failed_precondition",
      `${reason} and a user namespace (hostUsers: false) do not go together: take one out`,
    );
  }
  return true;
}

/** Rejects with failed_precondition unless pods of this namespace may run without a VM. `reason`: what asks for it. */
export function requireHost(config: PodConfig, policy: HostPolicy, reason: string): void {
  if (isAllowed(config, policy)) return;
  const allowed = policy.namespaces.length > 0 ? policy.namespaces.join(", ") : "none";
  throw new PodvmError(
    "failed_precondition",
    `pod ${config.namespace}/${config.name}: ${reason} needs a pod without a virtual machine, and the configuration allows those only in ` +
      `the namespaces ${allowed}. Take it out of the pod, or add ${JSON.stringify(config.namespace)} to policy.host_namespaces`,
  );
}

function reasonsFor(config: PodConfig, policy: HostPolicy): string[] {
  const wanted = config.hostNamespaces ?? [];
  const onlyPid = wanted.length === 1 && wanted[0] === "pid";
  const stays = onlyPid && (policy.hostPid === "guest" || !isAllowed(config, policy));
  const named = (stays ? [] : wanted).map((name) => FIELDS[name]);
  if (config.runtimeHandler === HOST_HANDLER) named.push(`the runtime handler "${HOST_HANDLER}"`);
  return named;
}

function isAllowed(config: PodConfig, policy: HostPolicy): boolean {
  return policy.namespaces.some((pattern) => matches(pattern, config.namespace));
}

function matches(pattern: string, namespace: string): boolean {
  return pattern.endsWith("*") ? namespace.startsWith(pattern.slice(0, -1)) : pattern === namespace;
}
