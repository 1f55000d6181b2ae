/** Which accelerator this machine's QEMU can use, and why. */
import { open, readFile } from "node:fs/promises";
import { messageOf, PodvmError } from "../../host/errors.js";

export type Accelerator = "kvm" | "tcg";

export interface AcceleratorChoice {
  accelerator: Accelerator;
  /** Why only with TCG. */
  reason?: string;
}

/** Rejects with failed_precondition where KVM is demanded and not usable. */
export async function chooseAccelerator(wanted: "auto" | Accelerator): Promise<AcceleratorChoice> {
  if (wanted === "tcg") return { accelerator: "tcg", reason: "TCG is set in the configuration" };
  const obstacle = kvmObstacle(await readFile("/proc/cpuinfo", "utf8"), await openError("/dev/kvm"));
  if (obstacle === undefined) return { accelerator: "kvm" };
  if (wanted === "kvm") throw new PodvmError("failed_precondition", `KVM is set in the configuration, but ${obstacle}`);
  return { accelerator: "tcg", reason: `KVM is not usable: ${obstacle}; guests are emulated, many times slower` };
}

/**
 * Undefined where KVM is usable. /dev/kvm alone proves nothing: a kernel with another backend (pvm) opens it and makes VMs in which an
 * ordinary kernel hangs for ever.
 */
export function kvmObstacle(cpuinfo: string, deviceError: string | undefined): string | undefined {
  const flags = cpuinfo.match(/^flags\s*:(.*)$/m)?.[1]?.split(/\s+/) ?? [];
  if (!flags.includes("vmx") && !flags.includes("svm")) return "the CPU offers neither vmx nor svm";
  return deviceError;
}

async function openError(path: string): Promise<string | undefined> {
  try {
    await (await open(path, "r+")).close();
    return undefined;
  } catch (err) {
    return `${path} cannot be opened: ${messageOf(err)}`;
  }
}
