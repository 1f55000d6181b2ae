/**
 * The folder of CNI configurations: which network is in use, and whether it can be used now. A change of the folder is seen at once
 * (inotify); a slow look catches what inotify cannot say: the folder's own coming and going, plugins installed later, STATUS.
 */
import { type FSWatcher, watch } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { errno, messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { type ChainOptions, checkNetwork, statusOfNetwork } from "./chain.js";
import { maxConfigBytes, type NetworkList, parseConfig } from "./config.js";
import type { NetworkStatus } from "./network.js";

const extensions = [".conflist", ".conf", ".json"];
const debounceMs = 100;
const statusDeadlineMs = 5_000;

export interface WatcherOptions {
  confDir: string;
  chain: ChainOptions;
  logger: Logger;
  /** Milliseconds between the slow looks. */
  rescanMs: number;
}

export class ConfigWatcher {
  #options: WatcherOptions;
  #list: NetworkList | undefined;
  #problem = "not looked yet";
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #debounce: NodeJS.Timeout | undefined;
  #closed = false;
  /** The look under way, and the one that is to follow it. */
  #looking: Promise<void> | undefined;
  #again: Promise<void> | undefined;
  /** Files and plugins as they were at the last full check: equal means that it need not be repeated. */
  #checked = "";

  constructor(options: WatcherOptions) {
    this.#options = options;
  }

  /** Resolves after the first look. A missing folder is no error: it is waited for. */
  async open(): Promise<void> {
    await this.look();
    this.#schedule();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#debounce);
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  status(): NetworkStatus {
    if (this.#list && !this.#problem) return { ready: true, reason: "", message: "", configuration: this.#list.name };
    const status = { ready: false, reason: "NetworkPluginNotReady", message: this.#problem };
    return this.#list ? { ...status, configuration: this.#list.name } : status;
  }

  /** The network in use. Looks again before it says that there is none. */
  async current(): Promise<NetworkList> {
    if (!this.#list || this.#problem) await this.look();
    if (!this.#list || this.#problem) throw new PodvmError("unavailable", `no pod network: ${this.#problem}`);
    return this.#list;
  }

  /** One look at the folder, after any that is under way (which may have read what has changed since). */
  look(): Promise<void> {
    if (!this.#looking) {
      this.#looking = this.#look().finally(() => {
        this.#looking = undefined;
      });
      return this.#looking;
    }
    this.#again ??= this.#looking.then(() => {
      this.#again = undefined;
      return this.look();
    });
    return this.#again;
  }

  async #look(): Promise<void> {
    this.#watch();
    const { list, problem, signature } = await this.#read();
    const same = signature !== "" && signature === this.#checked;
    let found = problem;
    if (list && !found) {
      found = await problemOf(async () => {
        if (!same) await checkNetwork(list, this.#options.chain);
        await statusOfNetwork(list, this.#options.chain, statusDeadlineMs);
      });
    }
    this.#checked = found ? "" : signature;
    this.#set(list, found);
  }

  #set(list: NetworkList | undefined, problem: string): void {
    const before = this.status();
    this.#list = list;
    this.#problem = problem;
    const now = this.status();
    if (now.ready === before.ready && now.message === before.message && now.configuration === before.configuration)
      return;
    if (now.ready) this.#options.logger.info("pod network is ready", { network: now.configuration });
    else this.#options.logger.warn("pod network is not ready", { problem });
  }

  /** The first valid file by name decides, as everywhere (libcni, containerd, CRI-O). */
  async #read(): Promise<{ list: NetworkList | undefined; problem: string; signature: string }> {
    const { confDir, chain, logger } = this.#options;
    let names: string[];
    try {
      names = (await readdir(confDir)).filter((name) => extensions.some((end) => name.endsWith(end))).sort();
    } catch (err) {
      if (errno(err) !== "ENOENT")
        return { list: undefined, problem: `cannot read ${confDir}: ${messageOf(err)}`, signature: "" };
      return { list: undefined, problem: `no CNI configuration: there is no folder ${confDir}`, signature: "" };
    }
    const problems: string[] = [];
    for (const name of names) {
      const path = `${confDir}/${name}`;
      try {
        const about = await stat(path);
        if (!about.isFile()) throw new PodvmError("invalid_argument", `CNI configuration ${path}: no regular file`);
        if (about.size > maxConfigBytes)
          throw new PodvmError("invalid_argument", `CNI configuration ${path}: larger than ${maxConfigBytes} bytes`);
        const content = await readFile(path, "utf8");
        const list = parseConfig(path, content);
        for (const skipped of problems) logger.warn("skipped a CNI configuration", { problem: skipped });
        return { list, problem: "", signature: `${path}\n${content}\n${await stamps(list, chain.binDirs)}` };
      } catch (err) {
        problems.push(messageOf(err));
      }
    }
    const problem =
      names.length === 0
        ? `no CNI configuration in ${confDir}: wanted a file named *.conflist, *.conf or *.json`
        : `no valid CNI configuration in ${confDir}: ${problems.slice(0, 5).join("; ")}`;
    return { list: undefined, problem, signature: "" };
  }

  #watch(): void {
    if (this.#watcher || this.#closed) return;
    try {
      const watcher = watch(this.#options.confDir, { persistent: false }, (event, name) => {
        this.#changed();
        // The folder itself was moved or removed: the watch is on an inode that no path leads to.
        if (event === "rename" && name === this.#options.confDir.split("/").at(-1)) this.#unwatch();
      });
      watcher.on("error", () => this.#unwatch());
      this.#watcher = watcher;
    } catch {
      // no folder yet, or no inotify watches left: the slow look comes by
    }
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  /** Editors and installers touch a file several times in a row. */
  #changed(): void {
    if (this.#closed || this.#debounce) return;
    this.#debounce = setTimeout(() => {
      this.#debounce = undefined;
      void this.look();
    }, debounceMs);
    this.#debounce.unref();
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => void this.look().finally(() => this.#schedule()), this.#options.rescanMs);
    this.#timer.unref();
  }
}

async function problemOf(work: () => Promise<void>): Promise<string> {
  try {
    await work();
    return "";
  } catch (err) {
    return messageOf(err);
  }
}

/** Identity and age of each plugin's program. */
async function stamps(list: NetworkList, binDirs: string[]): Promise<string> {
  const lines: string[] = [];
  for (const { type } of list.plugins) {
    for (const dir of binDirs) {
      const about = await stat(`${dir}/${type}`).catch(() => undefined);
      if (about) lines.push(`${dir}/${type} ${about.ino} ${about.size} ${about.mtimeMs}`);
    }
  }
  return lines.join("\n");
}
