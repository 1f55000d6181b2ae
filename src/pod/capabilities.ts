import { readFile } from "node:fs/promises";
import { PodvmError } from "../host/errors.js";
import type { SecurityConfig } from "./types.js";

/** Linux capabilities in the order of their numbers (capability.h), to CAP_CHECKPOINT_RESTORE. */
const ALL = [
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "LINUX_IMMUTABLE",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_ADMIN",
  "NET_RAW",
  "IPC_LOCK",
  "IPC_OWNER",
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_CHROOT",
  "SYS_PTRACE",
  "SYS_PACCT",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_NICE",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "MKNOD",
  "LEASE",
  "AUDIT_WRITE",
  "AUDIT_CONTROL",
  "SETFCAP",
  "MAC_OVERRIDE",
  "MAC_ADMIN",
  "SYSLOG",
  "WAKE_ALARM",
  "BLOCK_SUSPEND",
  "AUDIT_READ",
  "PERFMON",
  "BPF",
  "CHECKPOINT_RESTORE",
].map((name) => `CAP_${name}`); // prettier-ignore

/** What containerd and Docker give by default, so that images behave as their authors saw them behave. */
const DEFAULT = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FSETID",
  "FOWNER",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SETFCAP",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
  "KILL",
  "AUDIT_WRITE",
].map((name) => `CAP_${name}`); // prettier-ignore

/**
 * The container's capabilities. CRI (Capability): privileged is all of them; "ALL" in add is all, in drop none; drop comes after
 * add, except that a capability added by name stays when ALL is dropped.
 */
export function capabilitiesOf(security: SecurityConfig): { granted: string[]; ambient: string[] } {
  if (security.privileged) return { granted: ALL, ambient: [] };
  const add = security.addCapabilities;
  const drop = security.dropCapabilities;
  const base = drop.includes("ALL") ? [] : add.includes("ALL") ? ALL : DEFAULT;
  const granted = new Set(base);
  for (const name of add) if (name !== "ALL") granted.add(name);
  for (const name of drop) granted.delete(name);
  const ambient = security.addAmbientCapabilities.flatMap((name) => (name === "ALL" ? ALL : [name]));
  for (const name of ambient) granted.add(name);
  return { granted: ALL.filter((name) => granted.has(name)), ambient };
}

export function unknownCapability(security: SecurityConfig): string | undefined {
  const named = [...security.addCapabilities, ...security.dropCapabilities, ...security.addAmbientCapabilities];
  return named.find((name) => name !== "ALL" && !ALL.includes(name));
}

/**
 * What of the granted can be given on the host: no process there gets more than the server itself has (a service manager may bound it), so
 * "all" means all of these. One that was asked for by name and is not among them is refused.
 */
export async function withinHost(security: SecurityConfig, granted: readonly string[]): Promise<string[]> {
  const held = heldCapabilities(await readFile("/proc/self/status", "utf8"));
  const missing = [...security.addCapabilities, ...security.addAmbientCapabilities].find(
    (name) => name !== "ALL" && !held.has(name),
  );
  if (missing && !security.privileged) {
    throw new PodvmError(
      "failed_precondition",
      `security_context.capabilities: ${missing} cannot be given to a pod on the host, since the server has not got it itself`,
    );
  }
  return granted.filter((name) => held.has(name));
}

/** The permitted set of a /proc/PID/status. */
export function heldCapabilities(status: string): Set<string> {
  const mask = BigInt(`0x${/^CapPrm:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  return new Set(ALL.filter((_, number) => (mask >> BigInt(number)) & 1n));
}
