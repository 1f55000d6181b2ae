/**
 * The shares of all pods. A share outlives the server: it is found by its pid file, and watched by a connection to its control socket, which ends
 * when it ends. One that dies is replaced at once, with all its entries: the guest sees a pause.
 */
import { mkdir, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { openCgroups } from "../host/cgroup.js";
import { sleep } from "../host/deadline.js";
import { PodvmError } from "../host/errors.js";
import { KeyedLock } from "../host/keyed-lock.js";
import type { Logger } from "../host/log.js";
import { killProcess, waitGone } from "../host/process.js";
import type { VmSpec } from "../vmm/vmm.js";
import type { ShareEntry, Shares } from "./share.js";
import {
  attachEntry,
  detachEntry,
  runningShare,
  shareControl,
  sharePidFile,
  shareRoot,
  startShare,
} from "./share-process.js";

export interface SharesOptions {
  /** Path of podvm-share. */
  program: string;
  logger: Logger;
  /** Vm.openSharePort of the VM that runs with this spec; rejects with not_found where none does. */
  openPort(spec: VmSpec, deadlineMs: number): Promise<string>;
}

export interface ManagedShares extends Shares {
  /** Stops watching; the shares go on (the server is stopping). */
  release(): void;
}

export function createShares(options: SharesOptions): ManagedShares {
  return new AllShares(options);
}

const REPLACE_MS = 10_000;
/** Between attempts to replace one that dies again and again: doubled each time, up to this. */
const LONGEST_PAUSE_MS = 30_000;
const FIRST_PAUSE_MS = 100;
/** One that has lived this long did not die of its start. */
const SETTLED_MS = 60_000;
const MAX_LOG_LINE = 1000;

interface Share {
  spec: VmSpec;
  entries: Map<string, ShareEntry>;
  control?: Socket;
  startedAt: number;
  pauseMs: number;
}

class AllShares implements ManagedShares {
  readonly #o: SharesOptions;
  readonly #shares = new Map<string, Share>();
  readonly #locks = new KeyedLock();
  #released = false;

  constructor(options: SharesOptions) {
    this.#o = options;
  }

  add(spec: VmSpec, entry: ShareEntry, deadlineMs: number): Promise<void> {
    return this.#locks.run(spec.id, async () => {
      const share = this.#of(spec);
      const before = share.entries.get(entry.name);
      share.entries.set(entry.name, entry);
      try {
        await this.#ensure(share, deadlineMs, entry);
      } catch (err) {
        // It must not keep the others from coming back when the share is replaced.
        if (!before) share.entries.delete(entry.name);
        throw err;
      }
    });
  }

  remove(spec: VmSpec, name: string, deadlineMs: number): Promise<void> {
    return this.#locks.run(spec.id, async () => {
      this.#shares.get(spec.id)?.entries.delete(name);
      if (await runningShare(spec)) await detachEntry(this.#o.program, spec, name, deadlineMs);
    });
  }

  restore(spec: VmSpec, entries: readonly ShareEntry[], deadlineMs: number): Promise<void> {
    return this.#locks.run(spec.id, async () => {
      const share = this.#of(spec);
      for (const entry of entries) share.entries.set(entry.name, entry);
      if (await runningShare(spec)) {
        // An earlier server may have died between its document and the attaching.
        for (const entry of entries) await this.#ensure(share, deadlineMs, entry);
      } else await this.#ensure(share, deadlineMs);
    });
  }

  stop(spec: VmSpec, deadlineMs: number): Promise<void> {
    const share = this.#shares.get(spec.id);
    // Before the lock: an attempt to replace it that is under way must not begin another.
    this.#shares.delete(spec.id);
    share?.control?.destroy();
    return this.#locks.run(spec.id, async () => {
      const process = await runningShare(spec);
      if (process) {
        await killProcess(process);
        await waitGone(process, deadlineMs);
      }
      for (const path of [shareControl(spec), shareRoot(spec), sharePidFile(spec)]) {
        await rm(path, { recursive: true, force: true });
      }
    });
  }

  release(): void {
    this.#released = true;
    for (const share of this.#shares.values()) share.control?.destroy();
  }

  #of(spec: VmSpec): Share {
    const known = this.#shares.get(spec.id);
    if (known) return known;
    const share: Share = { spec, entries: new Map(), startedAt: 0, pauseMs: 0 };
    this.#shares.set(spec.id, share);
    return share;
  }

  /** It runs, shows its entries (those of a share that runs already: this one), and is watched. Under the lock. */
  async #ensure(share: Share, deadlineMs: number, entry?: ShareEntry): Promise<void> {
    const { spec } = share;
    if (await runningShare(spec)) {
      if (entry) await attachEntry(this.#o.program, spec, entry, deadlineMs);
    } else await this.#start(share, deadlineMs);
    if (!share.control) await this.#watch(share);
  }

  async #start(share: Share, deadlineMs: number): Promise<void> {
    const { spec } = share;
    const socket = await this.#o.openPort(spec, deadlineMs);
    await mkdir(shareRoot(spec), { recursive: true, mode: 0o700 });
    // The VM's own: what the share needs counts to the pod and ends with it.
    const cgroups = await (await openCgroups()).make(spec.cgroup);
    share.startedAt = Date.now();
    await startShare(this.#o.program, spec, { socket, cgroups, entries: [...share.entries.values()] }, deadlineMs);
  }

  /** Resolves when the connection stands; its end is the share's end. */
  async #watch(share: Share): Promise<void> {
    const { spec } = share;
    const socket = connect(shareControl(spec));
    share.control = socket;
    const logger = this.#o.logger.child({ vm: spec.id });
    let line = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (line + text).split("\n");
      line = (lines.pop() ?? "").slice(0, MAX_LOG_LINE);
      for (const whole of lines) logger.debug("share", { line: whole.slice(0, MAX_LOG_LINE) });
    });
    await new Promise<void>((resolve) => {
      socket.once("connect", resolve);
      // An error comes before it, and means that it is dead already.
      socket.on("error", () => {});
      socket.once("close", () => {
        if (share.control === socket) delete share.control;
        resolve();
        void this.#replace(share);
      });
    });
  }

  async #replace(share: Share): Promise<void> {
    const { spec } = share;
    const logger = this.#o.logger.child({ vm: spec.id });
    const over = () => this.#released || this.#shares.get(spec.id) !== share || share.control !== undefined;
    if (Date.now() - share.startedAt > SETTLED_MS) share.pauseMs = 0;
    for (;;) {
      await sleep(share.pauseMs);
      share.pauseMs = Math.min(Math.max(share.pauseMs * 2, FIRST_PAUSE_MS), LONGEST_PAUSE_MS);
      if (over()) return;
      try {
        await this.#locks.run(spec.id, async () => {
          if (over()) return;
          await this.#ensure(share, REPLACE_MS);
          logger.warn("a pod's share had died and was replaced", {});
        });
        return; // whatever ends this one begins the next replacement
      } catch (err) {
        if (over()) return;
        if (err instanceof PodvmError && err.code === "not_found" && !(await this.#vmRuns(spec))) {
          logger.debug("a pod's share has ended with its VM", {});
          return;
        }
        logger.error("cannot replace a pod's share that has died; trying again", { err, pauseMs: share.pauseMs });
      }
    }
  }

  async #vmRuns(spec: VmSpec): Promise<boolean> {
    return await this.#o.openPort(spec, REPLACE_MS).then(
      () => true,
      () => false,
    );
  }
}
