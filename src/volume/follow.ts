/** Watches the source of a synced volume. */
import { type FSWatcher, watch } from "node:fs";
import { lstat, stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { presentGeneration } from "./atomic-writer.js";

/** Looked at again without an event: inotify drops events when its queue is full, and a folder may be made anew. */
const LOOK_MS = 60_000;
/** The same where it cannot be watched (fs.inotify.max_user_watches). */
const POLL_MS = 5_000;
/** Writers write in several steps. */
const SETTLE_MS = 20;

/**
 * Calls `changed` after each change of the source, from now until the signal is aborted; never two calls at a time, and one more where something
 * happened during a call. A call that rejects is made again.
 */
export class Follower {
  #watcher: FSWatcher | undefined;
  #watched = "";
  #seen = "";
  #timer: NodeJS.Timeout | undefined;
  #soon = false;
  #busy = false;
  #again = false;

  constructor(
    private readonly source: string,
    private readonly singleFile: boolean,
    private readonly changed: () => Promise<void>,
    private readonly signal: AbortSignal,
  ) {
    signal.addEventListener("abort", () => this.#end(), { once: true });
    if (!signal.aborted) void this.#look();
  }

  /** Something may be new. */
  nudge(): void {
    this.#schedule(SETTLE_MS);
  }

  async #look(): Promise<void> {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    let next = LOOK_MS;
    try {
      // Watched first: what changes from here on comes as an event.
      if (!(await this.#watch())) next = POLL_MS;
      const now = await this.#fingerprint();
      if (now !== "" && now !== this.#seen) {
        await this.changed();
        this.#seen = now;
      }
    } catch {
      next = POLL_MS; // `changed` has told why
    } finally {
      this.#busy = false;
      this.#schedule(this.#again ? SETTLE_MS : next);
      this.#again = false;
    }
  }

  /** The folder, or the one that a file lies in: a file may be replaced by rename. */
  async #watch(): Promise<boolean> {
    const folder = this.singleFile ? dirname(this.source) : this.source;
    const name = basename(this.source);
    try {
      const { dev, ino } = await stat(folder);
      if (this.#watcher && this.#watched === `${dev}:${ino}`) return true;
      this.#watcher?.close();
      this.#watched = `${dev}:${ino}`;
      this.#watcher = watch(folder, { persistent: false }, (_, changed) => {
        if (!this.singleFile || changed === null || changed === name) this.nudge();
      });
      this.#watcher.on("error", () => this.#unwatch());
      return true;
    } catch {
      this.#unwatch();
      return false;
    }
  }

  /** "" where it is gone: the guest keeps what it has. */
  async #fingerprint(): Promise<string> {
    const meta = await lstat(this.source, { bigint: true }).catch(() => undefined);
    if (!meta) return "";
    const present = this.singleFile ? undefined : await presentGeneration(this.source);
    return [meta.dev, meta.ino, meta.size, meta.mtimeNs, meta.ctimeNs, present].join(":");
  }

  #schedule(ms: number): void {
    if (this.signal.aborted) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    if (this.#soon) return; // events without end must not put it off for ever
    this.#soon = ms === SETTLE_MS;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#soon = false;
      void this.#look();
    }, ms);
    this.#timer.unref();
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #end(): void {
    clearTimeout(this.#timer);
    this.#unwatch();
  }
}
