/** How QEMU is placed: the document for podvm-launch. */
import { bundleTool } from "../../host/assets.js";
import type { LaunchDocument } from "../launch.js";
import { type CommandOptions, FD, qemuArguments } from "./command.js";
import { agentSocket, diskFolder, pidFile, qmpSocket, rootMountPoint, shareSocket } from "./paths.js";

/** QEMU's own descriptors, some forty, and one for each extent of each disk. */
const OPEN_FILES = 4096;
/** Its threads: CPUs, the main loop, RCU, and at most 64 workers for disk I/O. */
const THREADS_BESIDE_CPUS = 96;

export function launchDocument(options: CommandOptions & { cgroups: string[] }): LaunchDocument {
  const { spec, accelerator, cgroups } = options;
  const document: LaunchDocument = {
    version: 1,
    program: bundleTool(spec, "qemu-system-x86_64"),
    args: qemuArguments(options),
    // There is no /proc in its root, from which the loader would learn where the program lies.
    env: { LD_LIBRARY_PATH: `${spec.bundle}/lib` },
    uid: spec.uid,
    gid: spec.uid,
    cgroups,
    sockets: [
      { path: qmpSocket(spec), fd: FD.qmp },
      { path: agentSocket(spec), fd: FD.agent },
      { path: shareSocket(spec), fd: FD.share },
    ],
    root: {
      mountPoint: rootMountPoint(spec),
      binds: [
        { path: spec.bundle, access: "execute" },
        { path: spec.guest, access: "read" },
        { path: diskFolder(spec), access: "write" },
      ],
      devices: ["/dev/null", "/dev/urandom", ...(accelerator === "kvm" ? ["/dev/kvm"] : [])],
    },
    rlimits: { nofile: OPEN_FILES, nproc: Math.max(spec.vcpus, spec.maxVcpus ?? 0) + THREADS_BESIDE_CPUS, memlock: 0 },
    oomScoreAdj: 0,
    // Under KVM they save the guest's page walks; TCG has little of them and pays with the whole of the guest's memory.
    hugePages: accelerator === "kvm",
    pidFile: pidFile(spec),
  };
  if (options.console) document.stderrCopy = FD.console;
  if (spec.network) {
    document.netns = spec.network.netns;
    document.tap = { name: spec.network.tap, fd: FD.tap };
  }
  return document;
}
