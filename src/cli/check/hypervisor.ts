/** CPU, KVM, and the VMM that this machine gets. */
import { readFile } from "node:fs/promises";
import type { Config } from "../../config/config.js";
import type { Assets } from "../../host/assets.js";
import { silentLogger } from "../../host/log.js";
import { createQemuVmm } from "../../vmm/qemu/backend.js";
import { type Finding, fail, ok, warn } from "./finding.js";

/** What /proc/cpuinfo says of hardware virtualisation. */
export function cpuFinding(cpuinfo: string): Finding {
  const name = "CPU virtualisation";
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(/\s+/) ?? [];
  if (flags.includes("vmx")) return ok(name, "Intel VT-x (vmx)");
  if (flags.includes("svm")) return ok(name, "AMD-V (svm)");
  const virtual = flags.includes("hypervisor");
  const where = virtual
    ? "this machine is itself a VM without nested virtualisation"
    : "neither vmx nor svm in /proc/cpuinfo";
  const advice = virtual
    ? "enable nested virtualisation for this VM on its host, or use a machine with it; until then guests are emulated (TCG)"
    : "enable VT-x or AMD-V in the firmware; until then guests are emulated (TCG)";
  return warn(name, where, advice);
}

/** The VMM's own word: which accelerator, why, and what isolation this machine cannot give. */
export async function hypervisorFindings(config: Config, assets: Assets): Promise<Finding[]> {
  const status = await createQemuVmm({ assets, logger: silentLogger, accelerator: config.vm.accelerator }).status();
  if (!status.usable) {
    return [
      fail("hypervisor", status.reason ?? "not usable", "set vm.accelerator to auto, or put right what it names"),
    ];
  }
  const found = `QEMU ${status.version}, ${status.accelerator.toUpperCase()}`;
  const main = status.reason === undefined ? ok("hypervisor", found) : warn("hypervisor", `${found}: ${status.reason}`);
  return [main, ...status.relaxations.map((what) => warn("isolation", what))];
}

export async function readCpuFinding(): Promise<Finding> {
  return cpuFinding(await readFile("/proc/cpuinfo", "utf8"));
}
