/**
 * Control groups by name, on cgroup v1, v2 and the hybrid of both. A name ("/kubepods/burstable/podX/podvm-ID") stands for one
 * folder below every hierarchy that is mounted. Only the last part of a name is ever removed: its parents are kubelet's.
 */
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { sleep } from "./deadline.js";
import { errno, PodvmError } from "./errors.js";
import { readFileIfThere } from "./files.js";

/** kubelet's pods lie at four; nobody nests deeper than a few more. */
const MAX_DEPTH = 12;

interface Hierarchy {
  mountPoint: string;
  version: 1 | 2;
  /** v1: "cpu", "memory", "name=systemd" …; v2: what cgroup.controllers says at the root. */
  controllers: string[];
}

export interface CgroupUsage {
  cpuNs: bigint;
  memoryBytes: number;
  /** Without inactive page cache: what kubelet calls the working set. */
  workingSetBytes: number;
}

export interface Cgroups {
  /** 2: only the unified hierarchy; 1: controllers on v1, with or without an empty unified one. */
  readonly version: 1 | 2;
  /** Controllers found, over all hierarchies. */
  readonly controllers: readonly string[];
  /** Makes the folders and readies them for processes (cpuset on v1, controllers on v2). Idempotent. Answers the folders to join. */
  make(name: string): Promise<string[]>;
  /** A cgroup2 is mounted, with or without controllers. */
  readonly unified: boolean;
  /** Pids in the group and in those below it, of any hierarchy. */
  pids(name: string): Promise<number[]>;
  /** Kills every process in the group and below it, and waits for their end. OK where there is none. Rejects with deadline_exceeded. */
  kill(name: string, deadlineMs: number): Promise<void>;
  /** The same, and removes its folders with all below them. */
  remove(name: string, deadlineMs: number): Promise<void>;
  /** Names of the groups whose last part is `leaf`, below whatever parents. Reads all folders: for what has no record. */
  find(leaf: string): Promise<string[]>;
  /**
   * Lets the group have at least so many bytes of memory (and of memory with swap), where it has a limit that is lower.
   * @returns that lower limit; undefined where nothing had to change, or there is no such group or controller
   */
  raiseMemoryLimit(name: string, bytes: number): Promise<number | undefined>;
  /** Undefined where the group does not exist. */
  usage(name: string): Promise<CgroupUsage | undefined>;
}

/** Groups that go away meanwhile are left out. */
async function* namesBelow(mountPoint: string, name: string, depth: number): AsyncGenerator<string> {
  const entries = await readdir(`${mountPoint}${name}`, { withFileTypes: true }).catch((err) => {
    if (errno(err) === "ENOENT") return [];
    throw err;
  });
  for (const entry of entries) {
    if (!entry.isDirectory()) continue;
    const below = `${name}/${entry.name}`;
    yield below;
    if (depth > 1) yield* namesBelow(mountPoint, below, depth - 1);
  }
}

export async function openCgroups(): Promise<Cgroups> {
  return cgroupsOf(await findHierarchies(await readFile("/proc/self/mountinfo", "utf8")));
}

/**
 * kubelet's cgroup_parent as a path below the hierarchies' roots: "/kubepods/burstable/podX" stays, a systemd slice
 * "kubepods-burstable-podX.slice" becomes "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice"
 * (systemd.slice(5)). Rejects what could leave the hierarchy.
 */
export function expandCgroupParent(parent: string): string {
  const bad = (why: string) =>
    new PodvmError("invalid_argument", `cgroup_parent ${JSON.stringify(parent.slice(0, 300))}: ${why}`);
  if (!parent.includes("/") && parent.endsWith(".slice")) {
    const parts = parent.slice(0, -".slice".length).split("-");
    if (parts.some((part) => part === "")) throw bad("not a systemd slice name");
    const slices = parts.map((_, i) => `${parts.slice(0, i + 1).join("-")}.slice`);
    return checkCgroupName(`/${slices.join("/")}`);
  }
  if (!parent.startsWith("/")) throw bad("neither an absolute path nor a systemd slice");
  return checkCgroupName(parent.length > 1 && parent.endsWith("/") ? parent.slice(0, -1) : parent);
}

/** The name, or invalid_argument: "/part/part", nothing that could lead out of a hierarchy. */
export function checkCgroupName(name: string): string {
  const parts = name.slice(1).split("/");
  const plain = parts.every((part) => /^[\w.:@=+~-]{1,255}$/.test(part) && part !== "." && part !== "..");
  if (!name.startsWith("/") || name.length > 2048 || !plain) {
    throw new PodvmError(
      "invalid_argument",
      `${JSON.stringify(name.slice(0, 300))} is no cgroup name: want /part/part`,
    );
  }
  return name;
}

export async function findHierarchies(mountinfo: string): Promise<Hierarchy[]> {
  const found: Hierarchy[] = [];
  for (const line of mountinfo.split("\n")) {
    // proc(5): ids, device, root, mount point, options, optional fields, "-", type, source, super options.
    const [mount, fs] = line.split(" - ").map((half) => half.split(" "));
    const [root, mountPoint] = [mount?.[3], mount?.[4]];
    if (!fs || root !== "/" || mountPoint === undefined || found.some((h) => h.mountPoint === mountPoint)) continue;
    if (fs[0] === "cgroup") {
      const options = (fs[2] ?? "")
        .split(",")
        .filter((o) => !["rw", "ro", "xattr", "noprefix", "clone_children"].includes(o));
      found.push({ mountPoint, version: 1, controllers: options.filter((o) => !o.startsWith("release_agent")) });
    } else if (fs[0] === "cgroup2") {
      const text = (await readFileIfThere(`${mountPoint}/cgroup.controllers`)) ?? "";
      found.push({ mountPoint, version: 2, controllers: text.split(/\s+/).filter((c) => c !== "") });
    }
  }
  if (found.length === 0) {
    throw new PodvmError("failed_precondition", "no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup");
  }
  return found;
}

function cgroupsOf(hierarchies: Hierarchy[]): Cgroups {
  const v2 = hierarchies.find((h) => h.version === 2);
  const folder = (h: Hierarchy, name: string) => `${h.mountPoint}${checkCgroupName(name)}`;
  const folders = (name: string) => hierarchies.map((h) => folder(h, name));
  /** File of the hierarchy that has the controller. */
  const file = async (controller: string, name: string, leaf: string) => {
    const hierarchy = hierarchies.find((h) => h.controllers.includes(controller));
    return hierarchy && readFileIfThere(`${folder(hierarchy, name)}/${leaf}`);
  };
  const pids = async (name: string) => {
    const lists = await Promise.all(folders(name).map((path) => readProcs(path)));
    return [...new Set(lists.flat())];
  };

  return {
    version: hierarchies.some((h) => h.version === 1) ? 1 : 2,
    controllers: hierarchies.flatMap((h) => h.controllers),
    unified: v2 !== undefined,
    pids,

    async kill(name, deadlineMs) {
      const end = performance.now() + deadlineMs;
      for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
        if (v2) await writeIfThere(`${folder(v2, name)}/cgroup.kill`, "1");
        const left = await pids(name);
        if (left.length === 0) return;
        for (const pid of left) killQuietly(pid);
        if (performance.now() > end) {
          const shown = left.slice(0, 20).join(" ");
          throw new PodvmError("deadline_exceeded", `processes of cgroup ${name} survive SIGKILL: ${shown}`);
        }
        await sleep(pause);
      }
    },

    async make(name) {
      for (const hierarchy of hierarchies) await makeLevels(hierarchy, checkCgroupName(name));
      return folders(name);
    },

    async remove(name, deadlineMs) {
      const end = performance.now() + deadlineMs;
      for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
        if (v2) await writeIfThere(`${folder(v2, name)}/cgroup.kill`, "1");
        for (const pid of await pids(name)) killQuietly(pid);
        const busy = (await Promise.all(folders(name).map(removeFolder))).filter((path) => path !== undefined);
        if (busy.length === 0) return;
        if (performance.now() > end) {
          const left = (await pids(name)).join(" ") || "none";
          throw new PodvmError(
            "deadline_exceeded",
            `cgroup ${busy[0]} is still in use after ${Math.round(deadlineMs)} ms, pids: ${left}`,
          );
        }
        await sleep(pause);
      }
    },

    async find(leaf) {
      const found = new Set<string>();
      for (const { mountPoint } of hierarchies) {
        for await (const name of namesBelow(mountPoint, "", MAX_DEPTH)) if (name.endsWith(`/${leaf}`)) found.add(name);
      }
      return [...found];
    },

    async raiseMemoryLimit(name, bytes) {
      const hierarchy = hierarchies.find((h) => h.controllers.includes("memory"));
      if (!hierarchy) return undefined;
      const path = folder(hierarchy, name);
      if (hierarchy.version === 2) return raise(`${path}/memory.max`, bytes);
      // v1 wants the limit with swap, where the kernel has one, never below the other: that one goes first.
      await raise(`${path}/memory.memsw.limit_in_bytes`, bytes);
      return raise(`${path}/memory.limit_in_bytes`, bytes);
    },

    async usage(name) {
      if (v2?.controllers.includes("memory")) {
        const [cpu, current, stat] = await Promise.all(
          ["cpu.stat", "memory.current", "memory.stat"].map((leaf) => file("memory", name, leaf)),
        );
        if (cpu === undefined || current === undefined) return undefined;
        return usageOf(BigInt(field(cpu, "usage_usec")) * 1000n, Number(current), field(stat, "inactive_file"));
      }
      const [cpu, current, stat] = await Promise.all([
        file("cpuacct", name, "cpuacct.usage"),
        file("memory", name, "memory.usage_in_bytes"),
        file("memory", name, "memory.stat"),
      ]);
      if (cpu === undefined || current === undefined) return undefined;
      return usageOf(BigInt(cpu.trim()), Number(current), field(stat, "total_inactive_file"));
    },
  };
}

/** The number in the file, if it was lower than `bytes`, which stand in it now. "max" and v1's 2^63 are no limits. */
async function raise(path: string, bytes: number): Promise<number | undefined> {
  const found = await readFileIfThere(path);
  const limit = Number(found?.trim() ?? "NaN");
  if (!(limit < bytes)) return undefined;
  await writeFile(path, String(bytes));
  return limit;
}

function usageOf(cpuNs: bigint, memoryBytes: number, inactive: number): CgroupUsage {
  return { cpuNs, memoryBytes, workingSetBytes: Math.max(0, memoryBytes - inactive) };
}

function field(text: string | undefined, key: string): number {
  const line = text?.split("\n").find((l) => l.startsWith(`${key} `));
  return Number(line?.slice(key.length + 1) ?? 0);
}

async function makeLevels(hierarchy: Hierarchy, name: string): Promise<void> {
  let path = hierarchy.mountPoint;
  for (const part of name.slice(1).split("/")) {
    if (hierarchy.version === 2) await delegate(hierarchy, path);
    const parent = path;
    path = `${path}/${part}`;
    try {
      await mkdir(path);
    } catch (err) {
      if (errno(err) !== "EEXIST") throw new PodvmError("internal", `cannot make cgroup ${path}`, { cause: err });
    }
    if (hierarchy.controllers.includes("cpuset") && hierarchy.version === 1) await inheritCpuset(parent, path);
  }
}

/** A v1 cpuset starts empty and takes no process until it is filled: cpusets(7). */
async function inheritCpuset(parent: string, path: string): Promise<void> {
  for (const leaf of ["cpuset.cpus", "cpuset.mems"]) {
    if ((await readFile(`${path}/${leaf}`, "utf8")).trim() !== "") continue;
    await writeFile(`${path}/${leaf}`, await readFile(`${parent}/${leaf}`));
  }
}

/** Passes the controllers on to the children. One that the parent does not have, or that processes in it forbid, is left out. */
async function delegate(hierarchy: Hierarchy, path: string): Promise<void> {
  const active = (await readFileIfThere(`${path}/cgroup.subtree_control`)) ?? "";
  const missing = hierarchy.controllers.filter((c) => !active.split(/\s+/).includes(c));
  for (const controller of missing) {
    await writeFile(`${path}/cgroup.subtree_control`, `+${controller}`).catch(() => {});
  }
}

async function foldersIn(path: string): Promise<string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => `${path}/${entry.name}`);
  } catch (err) {
    if (errno(err) === "ENOENT" || errno(err) === "ENODEV") return [];
    throw err;
  }
}

/** Of the group and those below it. */
async function readProcs(path: string): Promise<number[]> {
  try {
    const below = await Promise.all((await foldersIn(path)).map(readProcs));
    const text = await readFile(`${path}/cgroup.procs`, "utf8");
    const own = text.split("\n").map(Number);
    return [...own.filter((pid) => pid > 0), ...below.flat()];
  } catch (err) {
    if (errno(err) === "ENOENT" || errno(err) === "ENODEV") return [];
    throw err;
  }
}

/** With the folders below it. Answers a path that is still in use, else undefined. */
async function removeFolder(path: string): Promise<string | undefined> {
  const busy = (await Promise.all((await foldersIn(path)).map(removeFolder))).find((found) => found !== undefined);
  if (busy !== undefined) return busy;
  try {
    await rmdir(path);
  } catch (err) {
    if (errno(err) === "EBUSY") return path;
    if (errno(err) !== "ENOENT") throw err;
  }
  return undefined;
}

async function writeIfThere(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text, { flag: "r+" });
  } catch (err) {
    if (!["ENOENT", "ENODEV"].includes(errno(err) ?? "")) throw err;
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (err) {
    if (errno(err) !== "ESRCH") throw err;
  }
}
