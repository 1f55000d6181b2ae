/** A running QEMU and its control channel. */
import { readFile } from "node:fs/promises";
import { sleep } from "../../host/deadline.js";
import { PodvmError } from "../../host/errors.js";
import { KeyedLock } from "../../host/keyed-lock.js";
import type { Logger } from "../../host/log.js";
import { isAlive, type ProcessRef, processStat } from "../../host/process.js";
import type { DiskSpec, HostCost, LinkAddress, Vm, VmExit, VmSize, VmSpec } from "../vmm.js";
import {
  blockDevice,
  blockNode,
  checkSerial,
  deviceId,
  FIRST_LUN,
  LAST_LUN,
  nodeName,
  placeDisk,
  removeDisk,
} from "./disks.js";
import { exitReason, type Shutdown } from "./exit-reason.js";
import { agentSocket, qmpSocket, shareSocket } from "./paths.js";
import { Qmp, QmpRefused } from "./qmp.js";
import { checkSize, resizeCpus, resizeMemory } from "./resize.js";
import { addSharePort } from "./share-port.js";

const COMMAND_MS = 5_000;

export interface QemuVmOptions {
  spec: VmSpec;
  process: ProcessRef;
  qmp: Qmp;
  /** What QEMU wrote to standard error; nothing is known of it after a restart of the server. */
  stderr: () => string;
  logger: Logger;
  onExit: () => void;
}

export class QemuVm implements Vm {
  readonly spec: VmSpec;
  /** After release() it stays open: the next server watches. */
  readonly exited: Promise<VmExit>;
  readonly #process: ProcessRef;
  readonly #stderr: () => string;
  readonly #logger: Logger;
  readonly #onExit: () => void;
  readonly #locks = new KeyedLock();
  #qmp: Qmp;
  #nextLun: number;
  #shutdown?: Shutdown;
  #released = false;

  constructor(options: QemuVmOptions) {
    this.spec = options.spec;
    this.#process = options.process;
    this.#stderr = options.stderr;
    this.#logger = options.logger;
    this.#onExit = options.onExit;
    this.#nextLun = FIRST_LUN + options.spec.disks.length;
    this.#qmp = this.#listenTo(options.qmp);
    this.exited = this.#watch();
  }

  get pid(): number {
    return this.#process.pid;
  }

  get link(): LinkAddress {
    return { path: agentSocket(this.spec) };
  }

  attachBlock(disk: DiskSpec, deadlineMs: number): Promise<void> {
    return this.#locks.run(disk.serial, () => this.#attach(disk, deadlineMs));
  }

  detachBlock(serial: string, deadlineMs: number): Promise<void> {
    return this.#locks.run(serial, () => this.#detach(serial, deadlineMs));
  }

  checkSize(size: VmSize): void {
    checkSize(this.spec, size);
  }

  resize(size: VmSize, deadlineMs: number): Promise<void> {
    return this.#locks.run("size", async () => {
      checkSize(this.spec, size);
      const execute: Qmp["execute"] = (command, args, ms) => this.#qmp.execute(command, args, ms);
      await resizeMemory(execute, this.spec, size.memoryMib, deadlineMs);
      await resizeCpus(execute, size.vcpus, deadlineMs);
    });
  }

  async pause(): Promise<void> {
    await this.#qmp.execute("stop", {}, COMMAND_MS);
  }

  async resume(): Promise<void> {
    await this.#qmp.execute("cont", {}, COMMAND_MS);
  }

  /** Rejects with not_found where the VMM is gone. */
  async hostCost(): Promise<HostCost> {
    const gone = () => new PodvmError("not_found", `VMM ${this.pid} is gone`);
    const [rollup, stat] = await Promise.all([
      readFile(`/proc/${this.pid}/smaps_rollup`, "utf8").catch(() => Promise.reject(gone())),
      processStat(this.pid),
    ]);
    if (stat?.starttime !== this.#process.starttime) throw gone();
    const bytes = (key: string) => Number(rollup.match(new RegExp(`^${key}:\\s+(\\d+) kB`, "m"))?.[1] ?? 0) * 1024;
    return { pss: bytes("Pss"), rss: bytes("Rss"), cpuNs: stat.cpuNs };
  }

  release(): void {
    this.#released = true;
    this.#qmp.close();
  }

  /** The server is about to kill it: so says `exited` then. */
  expectKill(): void {
    this.#shutdown ??= { guest: false, reason: "host-signal" };
  }

  async #attach(disk: DiskSpec, deadlineMs: number): Promise<void> {
    const { serial } = disk;
    checkSerial(serial);
    const present = await this.#present(serial, deadlineMs);
    if (present.device) return;
    if (!present.node) {
      await placeDisk(this.spec, disk);
      try {
        await this.#qmp.execute("blockdev-add", blockNode(this.spec, disk), deadlineMs);
      } catch (err) {
        await removeDisk(this.spec, serial);
        throw err;
      }
    }
    try {
      await this.#addDevice(disk, deadlineMs);
    } catch (err) {
      // Refused, or the VMM is dying: in both cases nobody uses the node.
      await this.#qmp.execute("blockdev-del", { "node-name": nodeName(serial) }, COMMAND_MS).catch(() => {});
      await removeDisk(this.spec, serial);
      throw err;
    }
  }

  /** At the next free LUN. Which are taken is QEMU's to say: an earlier server may have attached others. */
  async #addDevice(disk: DiskSpec, deadlineMs: number): Promise<void> {
    for (let tries = FIRST_LUN; tries <= LAST_LUN; tries++) {
      const lun = this.#nextLun;
      this.#nextLun = lun < LAST_LUN ? lun + 1 : FIRST_LUN;
      try {
        await this.#qmp.execute("device_add", blockDevice(disk, lun), deadlineMs);
        return;
      } catch (err) {
        if (!(err instanceof QmpRefused) || !err.message.includes("lun already used")) throw err;
      }
    }
    throw new PodvmError("resource_exhausted", `the VM has ${LAST_LUN} disks already`);
  }

  openSharePort(deadlineMs: number): Promise<string> {
    return this.#locks.run("share port", async () => {
      await addSharePort(this.#qmp, deadlineMs);
      return shareSocket(this.spec);
    });
  }

  async #detach(serial: string, deadlineMs: number): Promise<void> {
    checkSerial(serial);
    const end = performance.now() + deadlineMs;
    let present = await this.#present(serial, deadlineMs);
    if (present.device) await this.#qmp.execute("device_del", { id: deviceId(serial) }, deadlineMs);
    // The node is free once the device is gone; QEMU takes a SCSI disk away without asking the guest, but not always at once.
    while (present.node) {
      const refused = await this.#qmp.execute("blockdev-del", { "node-name": nodeName(serial) }, deadlineMs).then(
        () => undefined,
        (err: unknown) => err,
      );
      if (refused === undefined) break;
      if (!(refused instanceof QmpRefused) || performance.now() > end) throw refused;
      await sleep(5);
      present = await this.#present(serial, deadlineMs);
    }
    await removeDisk(this.spec, serial);
  }

  /** Asked of QEMU and not remembered: another server may have attached it. */
  async #present(serial: string, deadlineMs: number): Promise<{ node: boolean; device: boolean }> {
    const [nodes, devices] = await Promise.all([
      this.#qmp.execute("query-named-block-nodes", { flat: true }, deadlineMs),
      this.#qmp.execute("qom-list", { path: "/machine/peripheral" }, deadlineMs),
    ]);
    return {
      node: has(nodes, "node-name", nodeName(serial)),
      device: has(devices, "name", deviceId(serial)),
    };
  }

  #listenTo(qmp: Qmp): Qmp {
    qmp.onEvent(({ name, data }) => {
      if (name === "SHUTDOWN") this.#shutdown = { guest: data.guest === true, reason: String(data.reason) };
    });
    return qmp;
  }

  /** Follows the control channel until the process is gone. A channel that breaks while QEMU lives is made again. */
  async #watch(): Promise<VmExit> {
    while (true) {
      const why = await this.#qmp.closed;
      if (this.#released) return await new Promise(() => {});
      if (await this.#diesWithin(1_000)) {
        this.#onExit();
        return { reason: exitReason(this.#shutdown, this.#stderr()) };
      }
      this.#logger.warn("lost the control channel of a VMM that still runs", { err: why, pid: this.pid });
      await Qmp.connect(qmpSocket(this.spec), COMMAND_MS).then(
        (qmp) => {
          this.#qmp = this.#listenTo(qmp);
          if (this.#released) qmp.close();
        },
        (err) => this.#logger.warn("cannot reach the VMM's control channel", { err, pid: this.pid }),
      );
    }
  }

  async #diesWithin(ms: number): Promise<boolean> {
    const end = performance.now() + ms;
    for (let pause = 1; await isAlive(this.#process); pause = Math.min(pause * 2, 50)) {
      if (performance.now() > end) return false;
      await sleep(pause);
    }
    return true;
  }
}

/** Whether an untrusted list holds an object with that value. */
function has(list: unknown, key: string, value: string): boolean {
  if (!Array.isArray(list)) throw new PodvmError("unavailable", "QMP: the VMM answered no list");
  return list.some(
    (item) => typeof item === "object" && item !== null && (item as Record<string, unknown>)[key] === value,
  );
}
