/** The backend without a VM: the same agent as a process of the host (docs/host-pods.md). */
import { access, constants, mkdir, rm } from "node:fs/promises";
import { type Assets, bundleTool } from "../../host/assets.js";
import { Budget } from "../../host/budget.js";
import { type Cgroups, checkCgroupName, openCgroups } from "../../host/cgroup.js";
import { messageOf, PodvmError } from "../../host/errors.js";
import { readFileIfThere } from "../../host/files.js";
import type { Logger } from "../../host/log.js";
import { unmountBelow } from "../../host/mounts.js";
import { isAlive, killProcess, waitGone } from "../../host/process.js";
import { run } from "../../host/run.js";
import { launchBy, readPidFile } from "../launch.js";
import type { Vm, Vmm, VmmStatus, VmSpec } from "../vmm.js";
import { HostImages } from "./images.js";
import { agentFolder, agentSocket, disksFolder, layersFolder, pidFile } from "./paths.js";
import { HostVm } from "./vm.js";

export interface HostOptions {
  assets: Pick<Assets, "agent" | "bundle">;
  /** Its folder `vms` holds the pods', `host-images` the mounted images. */
  stateDir: string;
  logger: Logger;
}

/** Time for removing what a failed start left, beyond the start's own deadline. */
const CLEANUP_MS = 10_000;

export function createHostVmm(options: HostOptions): Vmm {
  return new HostVmm(options);
}

class HostVmm implements Vmm {
  readonly name = "host";
  readonly capabilities = {
    hotplugBlock: true,
    resize: false,
    snapshot: false,
    pause: false,
    hostKernel: true,
  };
  readonly #options: HostOptions;
  readonly #images: HostImages;
  readonly #vms = new Map<string, HostVm>();
  #cgroups?: Promise<Cgroups>;
  #status?: Promise<VmmStatus>;

  constructor(options: HostOptions) {
    this.#options = options;
    this.#images = new HostImages(options.stateDir);
  }

  status(): Promise<VmmStatus> {
    this.#status ??= this.#look();
    return this.#status;
  }

  async start(spec: VmSpec, deadlineMs: number): Promise<Vm> {
    const budget = new Budget(deadlineMs, `start of host pod ${spec.id.slice(0, 12)}`);
    checkCgroupName(spec.cgroup);
    const before = await readPidFile(pidFile(spec));
    if (before && (await isAlive(before))) {
      throw new PodvmError("already_exists", `host pod ${spec.id} runs already, as process ${before.pid}: adopt it`);
    }
    try {
      return await this.#start(spec, budget);
    } catch (err) {
      try {
        await this.destroy(spec, CLEANUP_MS);
      } catch (left) {
        this.#options.logger.error("a failed start left something behind", { err: left, pod: spec.id });
      }
      throw err;
    }
  }

  async adopt(spec: VmSpec, deadlineMs: number): Promise<Vm | undefined> {
    const process = await readPidFile(pidFile(spec));
    const cgroups = await this.#groups();
    if (!process || !(await isAlive(process))) {
      // Containers without their agent are nobody's: what is reported as ended must have ended.
      await cgroups.kill(spec.cgroup, deadlineMs);
      return undefined;
    }
    return this.#running(spec, process, cgroups, () => "");
  }

  async destroy(spec: VmSpec, deadlineMs: number): Promise<void> {
    const budget = new Budget(deadlineMs, `end of host pod ${spec.id.slice(0, 12)}`);
    const process = await readPidFile(pidFile(spec)).catch((err) => {
      this.#options.logger.warn("unreadable pid file: the cgroup alone names the agent", { err, pod: spec.id });
      return undefined;
    });
    this.#vms.get(spec.id)?.expectKill();
    if (process) await killProcess(process);
    await (await this.#groups()).remove(spec.cgroup, budget.left());
    if (process) await waitGone(process, budget.left());
    this.#vms.delete(spec.id);
    for (const folder of [spec.runDir, spec.dir]) await unmountBelow(folder, budget.left());
    await rm(spec.dir, { recursive: true, force: true });
    await this.#images.collect(budget.left());
    // The pid file goes last: until then a repeated call finds the process.
    await rm(spec.runDir, { recursive: true, force: true });
  }

  async #start(spec: VmSpec, budget: Budget): Promise<Vm> {
    const { agent } = this.#options.assets;
    const shared = spec.hostNamespaces ?? [];
    await access(agent, constants.X_OK).catch((cause) => {
      throw new PodvmError("failed_precondition", `wanted podvm-agent at ${agent}: run setup again`, { cause });
    });
    for (const folder of [disksFolder(spec), layersFolder(spec)]) await mkdir(folder, { recursive: true, mode: 0o711 });
    await mkdir(agentFolder(spec), { recursive: true, mode: 0o711 });
    for (const path of [agentSocket(spec), pidFile(spec)]) await rm(path, { force: true });
    for (const disk of spec.disks) {
      if (disk.source.kind !== "image")
        throw new PodvmError("internal", `disk ${disk.serial}: a host pod has no raw disks`);
      await this.#images.attach(spec, disk.serial, disk.source.image, budget.left());
    }
    const cgroups = await this.#groups();
    const document = {
      version: 1,
      listen: agentSocket(spec),
      state: agentFolder(spec),
      scratch: layersFolder(spec),
      disks: disksFolder(spec),
      crun: bundleTool(spec, "crun"),
      cgroups: await cgroups.make(spec.cgroup),
      ...(spec.network && { netns: spec.network.netns }),
      ownIpc: !shared.includes("ipc"),
      // As hostNetwork has it everywhere: such a pod carries the node's name.
      ownUts: !shared.includes("network"),
      pidFile: pidFile(spec),
    };
    const { process, stderr } = await launchBy([agent, "--host-pod"], document, budget.left());
    stderr.onLine((line) => this.#options.logger.debug("agent", { pod: spec.id, line }));
    return this.#running(spec, process, cgroups, stderr.text);
  }

  #running(spec: VmSpec, process: { pid: number; starttime: number }, cgroups: Cgroups, stderr: () => string): HostVm {
    const vm = new HostVm({ spec, process, images: this.#images, cgroups, logger: this.#options.logger, stderr });
    this.#vms.set(spec.id, vm);
    return vm;
  }

  #groups(): Promise<Cgroups> {
    this.#cgroups ??= openCgroups();
    return this.#cgroups;
  }

  async #look(): Promise<VmmStatus> {
    const { agent } = this.#options.assets;
    try {
      await access(agent, constants.X_OK);
      const { stdout } = await run([bundleTool(this.#options.assets, "crun"), "--version"], { deadlineMs: 10_000 });
      const version = stdout.match(/version (\S+)/)?.[1] ?? "unknown";
      const lacks = await missing(await this.#groups());
      const status: VmmStatus = { usable: lacks.length === 0, version, accelerator: "", relaxations: [] };
      if (lacks.length > 0) status.reason = lacks.join("; ");
      return status;
    } catch (err) {
      return { usable: false, version: "", accelerator: "", reason: messageOf(err), relaxations: [] };
    }
  }
}

/** What the kernel lacks. A module that is not loaded yet does not show: mount(8) loads it. */
async function missing(cgroups: Cgroups): Promise<string[]> {
  const lacks: string[] = [];
  const filesystems = (await readFileIfThere("/proc/filesystems")) ?? "";
  if (!/\toverlay$/m.test(filesystems)) lacks.push("the kernel has no overlay file system: modprobe overlay");
  if (!/\terofs$/m.test(filesystems)) lacks.push("the kernel has no EROFS: modprobe erofs");
  await access("/dev/loop-control").catch(() => lacks.push("there are no loop devices: modprobe loop"));
  if (!cgroups.unified)
    lacks.push("no cgroup2 is mounted: mount it on /sys/fs/cgroup, or /sys/fs/cgroup/unified beside cgroup v1");
  return lacks;
}
