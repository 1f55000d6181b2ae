/** The QEMU backend. */
import { access, mkdir, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { type Assets, bundleTool } from "../../host/assets.js";
import { Budget } from "../../host/budget.js";
import { type Cgroups, checkCgroupName, openCgroups } from "../../host/cgroup.js";
import { sleep } from "../../host/deadline.js";
import { messageOf, PodvmError } from "../../host/errors.js";
import { readFileIfThere } from "../../host/files.js";
import type { Logger } from "../../host/log.js";
import { isAlive, killProcess, type ProcessRef, waitGone } from "../../host/process.js";
import { run } from "../../host/run.js";
import { launch, readPidFile } from "../launch.js";
import type { Vm, Vmm, VmmStatus, VmSpec } from "../vmm.js";
import { type Accelerator, type AcceleratorChoice, chooseAccelerator } from "./accelerator.js";
import { placeDisk } from "./disks.js";
import { launchDocument } from "./document.js";
import { readGuest } from "./guest.js";
import { ownMemoryMib } from "./memory.js";
import { agentSocket, diskFolder, pidFile, qmpSocket, rootMountPoint, shareSocket } from "./paths.js";
import { Qmp } from "./qmp.js";
import { QemuVm } from "./vm.js";

export interface QemuOptions {
  assets: Assets;
  logger: Logger;
  accelerator: "auto" | Accelerator;
  /** Log the guest's kernel messages (debug level); costs boot time. Default false. */
  console?: boolean;
}

/** Time for removing what a failed start left, beyond the start's own deadline. */
const CLEANUP_MS = 10_000;
/** After a failed start: for the process to be gone and what it said to have arrived. */
const LAST_WORDS_MS = 1_000;
const MIB = 1024 * 1024;

export function createQemuVmm(options: QemuOptions): Vmm {
  return new QemuVmm(options);
}

class QemuVmm implements Vmm {
  readonly name = "qemu";
  readonly capabilities = { hotplugBlock: true, resize: true, snapshot: false, pause: true, hostKernel: false };
  readonly #options: QemuOptions;
  #status?: Promise<VmmStatus>;
  #accelerator?: Promise<AcceleratorChoice>;
  #cgroups?: Promise<Cgroups>;
  readonly #vms = new Map<string, QemuVm>();

  constructor(options: QemuOptions) {
    this.#options = options;
  }

  status(): Promise<VmmStatus> {
    this.#status ??= this.#look();
    return this.#status;
  }

  async start(spec: VmSpec, deadlineMs: number): Promise<Vm> {
    const budget = new Budget(deadlineMs, `start of VM ${spec.id.slice(0, 12)}`);
    checkCgroupName(spec.cgroup);
    const before = await readPidFile(pidFile(spec));
    if (before && (await isAlive(before))) {
      throw new PodvmError("already_exists", `VM ${spec.id} runs already, as process ${before.pid}: adopt it`);
    }
    try {
      return await this.#start(spec, budget);
    } catch (err) {
      try {
        await this.destroy(spec, CLEANUP_MS);
      } catch (left) {
        this.#options.logger.error("a failed start left something behind", { err: left, vm: spec.id });
      }
      throw err;
    }
  }

  async adopt(spec: VmSpec, deadlineMs: number): Promise<Vm | undefined> {
    const process = await readPidFile(pidFile(spec));
    if (!process || !(await isAlive(process))) return undefined;
    const qmp = await Qmp.connect(qmpSocket(spec), deadlineMs);
    return this.#running(spec, process, qmp, () => "");
  }

  /** By SIGKILL and not by QMP's quit: it needs no answer from a hostile VMM, and what the guest had flushed is in the host's page cache. */
  async destroy(spec: VmSpec, deadlineMs: number): Promise<void> {
    const budget = new Budget(deadlineMs, `end of VM ${spec.id.slice(0, 12)}`);
    const process = await readPidFile(pidFile(spec)).catch((err) => {
      this.#options.logger.warn("unreadable pid file: the cgroup alone names the VMM", { err, vm: spec.id });
      return undefined;
    });
    this.#vms.get(spec.id)?.expectKill();
    if (process) await killProcess(process);
    await (await this.#groups()).remove(spec.cgroup, budget.left());
    if (process) await waitGone(process, budget.left());
    this.#vms.delete(spec.id); // one that was released does not tell of its end
    // The pid file goes last: until then a repeated call finds the process.
    await rm(spec.dir, { recursive: true, force: true });
    await rm(spec.runDir, { recursive: true, force: true });
  }

  async #start(spec: VmSpec, budget: Budget): Promise<Vm> {
    const { assets, logger, console = false } = this.#options;
    const { accelerator } = await this.#choice();
    const guest = await readGuest(spec.guest);
    await mkdir(diskFolder(spec), { recursive: true, mode: 0o755 });
    await mkdir(spec.runDir, { recursive: true, mode: 0o700 });
    await mkdir(rootMountPoint(spec), { recursive: true });
    // Left by a VM of this spec that died; the launcher makes its sockets itself and takes none that is there.
    for (const path of [qmpSocket(spec), agentSocket(spec), shareSocket(spec), pidFile(spec)])
      await rm(path, { force: true });
    for (const disk of spec.disks) await placeDisk(spec, disk);
    const cgroups = await (await this.#groups()).make(spec.cgroup);
    await this.#fitIntoPod(spec, accelerator);
    const document = launchDocument({ spec, guest, accelerator, console, cgroups });
    const { process, stderr } = await launch(assets.launch, document, budget.left());
    if (console) stderr.onLine((line) => logger.debug("guest console", { vm: spec.id, line }));
    try {
      const qmp = await Qmp.connect(qmpSocket(spec), budget.left());
      // A console is the guest's to write: nothing in it is QEMU's reason for anything.
      return this.#running(spec, process, qmp, console ? () => "" : stderr.text);
    } catch (err) {
      // Its last words come by another pipe than the end of its socket, and may be later.
      await waitGone(process, LAST_WORDS_MS).catch(() => {});
      await sleep(LAST_WORDS_MS / 10);
      const said = stderr.text().slice(-1000);
      throw new PodvmError("internal", `QEMU did not come up: ${said || messageOf(err)}`, { cause: err });
    }
  }

  /**
   * Kubelet limits the pod's cgroup to the containers' limits and the RuntimeClass's overhead. With none, or too little of it, the kernel would kill the
   * VMM once the guest uses the memory that it was promised; so the pod gets what its VM can take, and the log says what to set.
   */
  async #fitIntoPod(spec: VmSpec, accelerator: Accelerator): Promise<void> {
    const pod = dirname(spec.cgroup);
    const wanted = (spec.memoryMib + ownMemoryMib(accelerator, spec.vcpus)) * MIB;
    const limit = pod === "/" ? undefined : await (await this.#groups()).raiseMemoryLimit(pod, wanted);
    if (limit === undefined) return;
    this.#options.logger.warn(
      "the pod's cgroup allowed less memory than its VM can take, and allows that now: give its RuntimeClass more overhead",
      { vm: spec.id, cgroup: pod, allowedMib: Math.floor(limit / MIB), neededMib: wanted / MIB },
    );
  }

  #running(spec: VmSpec, process: ProcessRef, qmp: Qmp, stderr: () => string): QemuVm {
    const onExit = () => {
      if (this.#vms.get(spec.id) === vm) this.#vms.delete(spec.id);
    };
    const vm = new QemuVm({ spec, process, qmp, stderr, logger: this.#options.logger, onExit });
    this.#vms.set(spec.id, vm);
    return vm;
  }

  #choice(): Promise<AcceleratorChoice> {
    this.#accelerator ??= chooseAccelerator(this.#options.accelerator);
    return this.#accelerator;
  }

  #groups(): Promise<Cgroups> {
    this.#cgroups ??= openCgroups();
    return this.#cgroups;
  }

  async #look(): Promise<VmmStatus> {
    const { assets } = this.#options;
    try {
      await access(assets.launch);
      const { stdout } = await run([bundleTool(assets, "qemu-system-x86_64"), "--version"], { deadlineMs: 10_000 });
      const version = stdout.match(/version (\S+)/)?.[1] ?? "unknown";
      const { accelerator, reason } = await this.#choice();
      const status: VmmStatus = { usable: true, version, accelerator, relaxations: await this.#relaxations() };
      if (reason !== undefined) status.reason = reason;
      return status;
    } catch (err) {
      return { usable: false, version: "", accelerator: "", reason: messageOf(err), relaxations: [] };
    }
  }

  async #relaxations(): Promise<string[]> {
    const found: string[] = [];
    const { controllers } = await this.#groups();
    for (const wanted of ["memory", "cpu", "pids"]) {
      if (!controllers.includes(wanted))
        found.push(`no ${wanted} cgroup: the VMM's use of it is not limited by the pod`);
    }
    if ((await readFileIfThere("/proc/sys/kernel/seccomp/actions_avail")) === undefined) {
      found.push("this kernel has no seccomp filters: the VMM may make every system call");
    }
    return found;
  }
}
