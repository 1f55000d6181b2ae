/** CPU, KVM, and the VMM that this machine gets. */
import { open, readFile } from "node:fs/promises";
import type { Config } from "../../config/config.js";
import type { Assets } from "../../host/assets.js";
import { messageOf } from "../../host/errors.js";
import { silentLogger } from "../../host/log.js";
import { kvmObstacle } from "../../vmm/qemu/accelerator.js";
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

/** An open /dev/kvm alone proves nothing: see kvmObstacle. */
export function kvmFinding(cpuinfo: string, openError: string | undefined): Finding {
  if (openError !== undefined)
    return warn("KVM", `/dev/kvm does not open: ${openError}`, "modprobe kvm_intel or kvm_amd");
  const obstacle = kvmObstacle(cpuinfo, undefined);
  if (obstacle === undefined) return ok("KVM", "usable");
  return warn("KVM", `not usable: /dev/kvm opens, but ${obstacle}; an ordinary guest kernel would hang in it`);
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

export async function cpuFindings(): Promise<Finding[]> {
  const cpuinfo = await readFile("/proc/cpuinfo", "utf8");
  const openError = await open("/dev/kvm", "r+").then(
    (file) => file.close(),
    (err) => messageOf(err),
  );
  return [cpuFinding(cpuinfo), kvmFinding(cpuinfo, openError ?? undefined)];
}
