/** Kernel parameters that a pod may set. */
import { PodvmError } from "../host/errors.js";
import { bad, text } from "./checks.js";

/** Of network and IPC namespaces: the pod's own in a VM as on a host. */
const OF_NAMESPACES = [/^net\./, /^kernel\.(shm|msg)[a-z_]*$/, /^kernel\.sem$/, /^fs\.mqueue\./];
/**
 * Of the whole kernel, which in a VM is the pod's own: limits that programs ask for. What would run programs or change how the guest's first
 * process fares (kernel.core_pattern, kernel.panic, kernel.modprobe …) is not among them.
 */
const OF_THE_GUEST = [
  /^vm\.(max_map_count|overcommit_memory|overcommit_ratio|swappiness|nr_hugepages|dirty_[a-z_]+|min_free_kbytes|mmap_min_addr)$/,
  /^fs\.(file-max|nr_open|aio-max-nr|inotify\.[a-z_]+|epoll\.[a-z_]+|pipe-[a-z-]+)$/,
  /^kernel\.(pid_max|threads-max|sched_[a-z_]+|numa_balancing|keys\.[a-z_]+|perf_event_paranoid|yama\.ptrace_scope)$/,
];
const MAX_SYSCTLS = 256;

/**
 * Names with dots, checked: invalid_argument for one that is malformed, failed_precondition for one that a pod may not set. Whether the
 * guest's kernel has it, and takes the value, the guest says when it is set.
 */
export function parseSysctls(sysctls: Record<string, string>): Record<string, string> {
  const entries = Object.entries(sysctls);
  if (entries.length > MAX_SYSCTLS) throw bad("config.linux.sysctls", `at most ${MAX_SYSCTLS}`, `${entries.length}`);
  return Object.fromEntries(
    entries.map(([name, value]) => [checked(name), text(`config.linux.sysctls ${name}`, value, 4096)]),
  );
}

function checked(name: string): string {
  // CRI and Kubernetes allow "/" as separator (net/ipv4/ip_forward), sysctl(8): then a dot is part of a name.
  const dotted = /^[^./]+\//.test(name) ? name.replace(/[./]/g, (c) => (c === "/" ? "." : "/")) : name;
  if (!/^[a-z0-9_-]+(\.[A-Za-z0-9_/@-]+)+$/.test(dotted) || dotted.length > 256 || dotted.includes("//")) {
    throw bad("config.linux.sysctls", "a name such as net.core.somaxconn", name);
  }
  if (![...OF_NAMESPACES, ...OF_THE_GUEST].some((pattern) => pattern.test(dotted))) {
    throw new PodvmError(
      "failed_precondition",
      `config.linux.sysctls: ${name} is not one that a pod may set; those of net., kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue. are, and ` +
        "the limits of the guest's kernel that docs/security.md lists",
    );
  }
  return name;
}
