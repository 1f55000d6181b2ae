import { availableParallelism, totalmem } from "node:os";
import { PodvmError } from "../host/errors.js";
import type { PodConfig } from "./types.js";

export interface SizingConfig {
  defaultMemoryMib: number;
  defaultVcpus: number;
  guestReserveMib: number;
  /** What a pod may grow to while it runs, as far as the node has as many: each costs the VM a little from the beginning. */
  maxVcpus: number;
}

const MIB = 1024 * 1024;

/**
 * Memory and CPUs of the pod's VM. With limits: exactly what they say (CPUs rounded up to whole ones), plus what the guest's own kernel and agent
 * need; no hidden "+1". Without: the configured defaults. What the VMM itself costs is not in here: that is the RuntimeClass overhead.
 */
export function sizeOf(config: PodConfig, sizing: SizingConfig): { memoryMib: number; vcpus: number } {
  const limit = config.resources?.memoryLimit ?? 0;
  const memoryMib = limit > 0 ? Math.ceil(limit / MIB) + sizing.guestReserveMib : sizing.defaultMemoryMib;
  const hostMib = Math.floor(totalmem() / MIB);
  if (memoryMib > hostMib) {
    throw new PodvmError(
      "resource_exhausted",
      `the pod's limits ask for a VM of ${memoryMib} MiB; this node has ${hostMib} MiB`,
    );
  }
  const { cpuQuota = 0, cpuPeriod = 100_000 } = config.resources ?? {};
  const vcpus = cpuQuota > 0 ? Math.ceil(cpuQuota / cpuPeriod) : sizing.defaultVcpus;
  return { memoryMib, vcpus: Math.min(Math.max(vcpus, 1), 255) };
}

/** Addresses that a VM sets aside for memory to come have to fit the CPU's: enough for what a pod may become. */
const MOST_MIB = 256 * 1024;

/** What a VM that begins with this size can be resized to. */
export function roomFor(
  size: { memoryMib: number; vcpus: number },
  sizing: SizingConfig,
): { maxMemoryMib: number; maxVcpus: number } {
  const hostMib = Math.floor(totalmem() / MIB);
  return {
    maxMemoryMib: Math.max(size.memoryMib, Math.min(hostMib, MOST_MIB)),
    maxVcpus: Math.max(size.vcpus, Math.min(availableParallelism(), sizing.maxVcpus)),
  };
}
