/** Settings of the kernel that a program under test changes and that the machine must have back. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What kubelet and kube-proxy set at start. */
export const kubernetesSysctls = [
  "vm.overcommit_memory",
  "vm.panic_on_oom",
  "kernel.panic",
  "kernel.panic_on_oops",
  "kernel.keys.root_maxkeys",
  "kernel.keys.root_maxbytes",
  "net.ipv4.conf.all.route_localnet",
  "net.netfilter.nf_conntrack_max",
  "net.netfilter.nf_conntrack_tcp_timeout_established",
  "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
] as const;

const path = (name: string) => join("/proc/sys", name.replaceAll(".", "/"));

/** Name → value; what this kernel does not have is left out. */
export function readSysctls(names: readonly string[] = kubernetesSysctls): Record<string, string> {
  const values: Record<string, string> = {};
  for (const name of names) {
    try {
      values[name] = readFileSync(path(name), "utf8").trim();
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== "ENOENT") throw err;
    }
  }
  return values;
}

/** Writes back those that differ. */
export function restoreSysctls(values: Record<string, string>): void {
  const now = readSysctls(Object.keys(values));
  for (const [name, value] of Object.entries(values)) if (now[name] !== value) writeFileSync(path(name), value);
}
