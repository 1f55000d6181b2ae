/** A pod's agent that runs as a process of the host. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Cgroups } from "../../host/cgroup.js";
import { PodvmError } from "../../host/errors.js";
import type { Logger } from "../../host/log.js";
import { isAlive, type ProcessRef } from "../../host/process.js";
import type { DiskSpec, HostCost, LinkAddress, Vm, VmExit, VmSpec } from "../vmm.js";
import type { HostImages } from "./images.js";
import { agentSocket, disksFolder } from "./paths.js";

/** There is no event for the end of a process that is not our child. */
const LOOK_MS = 500;
const KILL_MS = 10_000;

export interface HostVmOptions {
  spec: VmSpec;
  process: ProcessRef;
  images: HostImages;
  cgroups: Cgroups;
  logger: Logger;
  /** The end of what the agent wrote to standard error, as far as it is known. */
  stderr: () => string;
}

export class HostVm implements Vm {
  readonly spec: VmSpec;
  readonly exited: Promise<VmExit>;
  readonly #options: HostVmOptions;
  #released = false;
  #killed = false;

  constructor(options: HostVmOptions) {
    this.spec = options.spec;
    this.#options = options;
    this.exited = this.#watch();
  }

  get pid(): number {
    return this.#options.process.pid;
  }

  get link(): LinkAddress {
    return { path: agentSocket(this.spec) };
  }

  async attachBlock(disk: DiskSpec, deadlineMs: number): Promise<void> {
    checkSerial(disk.serial);
    if (disk.source.kind !== "image") {
      throw new PodvmError(
        "failed_precondition",
        `disk ${disk.serial}: a pod without a VM has no raw disks, only folders`,
      );
    }
    await this.#options.images.attach(this.spec, disk.serial, disk.source.image, deadlineMs);
  }

  async detachBlock(serial: string, deadlineMs: number): Promise<void> {
    checkSerial(serial);
    await rm(join(disksFolder(this.spec), serial), { force: true });
    await this.#options.images.collect(deadlineMs);
  }

  async openSharePort(): Promise<string> {
    throw new PodvmError(
      "failed_precondition",
      "a pod without a VM has no share: files of the host are bound where they are",
    );
  }

  checkSize(): void {
    throw new PodvmError(
      "failed_precondition",
      "a pod without a VM has the host's memory and CPUs: limit its containers",
    );
  }

  async resize(): Promise<void> {
    this.checkSize();
  }

  async pause(): Promise<void> {
    throw new PodvmError("unimplemented", "a pod without a VM cannot be paused");
  }

  async resume(): Promise<void> {
    throw new PodvmError("unimplemented", "a pod without a VM cannot be paused");
  }

  /** What the pod's cgroup is charged: agent and containers. */
  async hostCost(): Promise<HostCost> {
    const usage = await this.#options.cgroups.usage(this.spec.cgroup);
    if (!usage) throw new PodvmError("unavailable", `cgroup ${this.spec.cgroup} tells no use of memory and CPU`);
    return { pss: usage.workingSetBytes, rss: usage.memoryBytes, cpuNs: usage.cpuNs };
  }

  release(): void {
    this.#released = true;
  }

  /** The end that is coming is wanted. */
  expectKill(): void {
    this.#killed = true;
  }

  async #watch(): Promise<VmExit> {
    while (await isAlive(this.#options.process)) {
      if (this.#released) return await new Promise(() => {});
      await unreferenced(LOOK_MS);
    }
    if (this.#killed) return { reason: "killed" };
    // A VM takes its containers with it; here they would go on without anybody who knows them.
    await this.#options.cgroups.kill(this.spec.cgroup, KILL_MS).catch((err) => {
      this.#options.logger.error("containers survive their agent", { err, pod: this.spec.id });
    });
    const last = this.#options.stderr().split("\n").at(-1)?.slice(0, 200);
    return { reason: last ? `its agent died: ${last}` : "its agent died" };
  }
}

/** Serials are names of links. */
function checkSerial(serial: string): void {
  if (!/^[a-z0-9-]{1,20}$/.test(serial)) {
    throw new PodvmError("invalid_argument", `disk serial ${JSON.stringify(serial)}: want 1 to 20 of [a-z0-9-]`);
  }
}

/** A pod outlives the server and must not hold it back. */
function unreferenced(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
