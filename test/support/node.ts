/** What a server and its pods have on the node: to compare before and after, and to sweep at a test's end. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join, relative } from "node:path";
import { bundleTool } from "../../src/host/assets.js";
import { run } from "../../src/host/run.js";
import type { Podvm } from "./podvm.js";
import { tool } from "./tools.js";

type Owner = Pick<
  Podvm,
  "tag" | "dir" | "stateDir" | "runDir" | "uidBase" | "uidCount" | "bridge" | "subnet" | "subnet6" | "crictl"
>;

export interface NodeSnapshot {
  processes: string[];
  cgroups: string[];
  mounts: string[];
  /** Interfaces that hang on the server's bridge. */
  links: string[];
  /** Network namespaces named after pods that this test's crictl made. */
  netns: string[];
  /** Filter and NAT rules that name the server's network or subnets. */
  rules: string[];
  /** Files of the state and run folders, and CNI's address records; the image store is left out. */
  files: string[];
}

/** Everything on the node that can be told to be `owner`'s, the server process itself left out. */
export async function snapshot(owner: Owner & { pid?: number }): Promise<NodeSnapshot> {
  return {
    processes: processes(owner).map((process) => process.command),
    cgroups: cgroups(owner),
    mounts: mounts(owner).sort(),
    links: await links(owner),
    netns: safeList("/run/netns")
      .map((entry) => entry.name)
      .filter((name) => [...owner.crictl.podIds].some((id) => name.includes(id.slice(0, 12))))
      .sort(),
    rules: await rules(owner),
    files: files(owner),
  };
}

/** Entries of `after` that `before` does not have, per kind; kinds without any are left out. */
export function left(before: NodeSnapshot, after: NodeSnapshot): Partial<NodeSnapshot> {
  const result: Partial<NodeSnapshot> = {};
  for (const kind of Object.keys(after) as (keyof NodeSnapshot)[]) {
    const more = [...after[kind]];
    for (const entry of before[kind]) {
      const at = more.indexOf(entry);
      if (at >= 0) more.splice(at, 1);
    }
    if (more.length > 0) result[kind] = more;
  }
  return result;
}

/** Processes of the server's user ids, or with its tag in their command line or cgroup. */
export function processes(owner: Pick<Owner, "tag" | "uidBase" | "uidCount"> & { pid?: number }) {
  const found: { pid: number; command: string; uid: number }[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid || Number(entry) === safePid(owner)) continue;
    try {
      const status = readFileSync(`/proc/${entry}/status`, "utf8");
      if (/^State:\s+Z/m.test(status)) continue;
      const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1] ?? -1);
      const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      const cgroup = readFileSync(`/proc/${entry}/cgroup`, "utf8");
      const ours = uid >= owner.uidBase && uid < owner.uidBase + owner.uidCount;
      if (ours || command.includes(owner.tag) || cgroup.includes(owner.tag)) {
        // crictl and podvm commands of the test itself come and go
        if (/crictl --config |main\.js (serve|run|ps) /.test(command)) continue;
        found.push({ pid: Number(entry), command, uid });
      }
    } catch {
      // ended while we looked
    }
  }
  return found;
}

function safePid(owner: { pid?: number }): number | undefined {
  try {
    return owner.pid;
  } catch {
    return undefined; // no server runs
  }
}

function cgroupRoots(): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(" ")[4] ?? "");
}

/** The cgroup in every hierarchy. */
export function makeCgroup(name: string): void {
  for (const root of cgroupRoots()) mkdirSync(join(root, name), { recursive: true });
}

/** Those with the tag in their name, and those of pods that asked for no parent. */
function cgroups(owner: Pick<Owner, "tag" | "crictl">): string[] {
  const found: string[] = [];
  const walk = (folder: string) => {
    found.push(folder);
    for (const entry of safeList(folder)) if (entry.isDirectory()) walk(join(folder, entry.name));
  };
  for (const root of cgroupRoots()) {
    for (const entry of safeList(root))
      if (entry.isDirectory() && entry.name.includes(owner.tag)) walk(join(root, entry.name));
    for (const id of owner.crictl.podIds) {
      const own = join(root, "podvm", `podvm-${id.slice(0, 20)}`);
      if (existsSync(own)) walk(own);
    }
  }
  return found.sort();
}

function safeList(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return [];
  }
}

/** Mount points in this mount namespace whose path or source has the tag. */
function mounts(owner: Pick<Owner, "tag">): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(owner.tag))
    .map((line) => line.split(" ")[4] ?? "");
}

async function links(owner: Pick<Owner, "bridge">): Promise<string[]> {
  const shown = await run(["ip", "-o", "link", "show"]);
  return shown.stdout
    .split("\n")
    .filter((line) => line.includes(`master ${owner.bridge} `))
    .map((line) => line.split(": ")[1] ?? line)
    .sort();
}

async function rules(owner: Pick<Owner, "tag" | "subnet" | "subnet6">): Promise<string[]> {
  const found: string[] = [];
  for (const program of ["iptables-save", "ip6tables-save"]) {
    const path = bundleTool({ bundle: join(tool("assets"), "bundle/current") }, program);
    if (!existsSync(path)) continue;
    const { stdout } = await run([path]);
    found.push(
      ...stdout
        .split("\n")
        .filter((l) => l.includes(owner.tag) || l.includes(`${owner.subnet}.`) || l.includes(`${owner.subnet6}:`)),
    );
  }
  return found.sort();
}

function files(owner: Pick<Owner, "dir" | "stateDir" | "runDir">): string[] {
  const found: string[] = [];
  const walk = (root: string, folder: string, skip: (path: string) => boolean) => {
    for (const entry of safeList(folder)) {
      const path = join(folder, entry.name);
      if (skip(relative(root, path))) continue;
      found.push(path);
      if (entry.isDirectory()) walk(root, path, skip);
    }
  };
  walk(owner.stateDir, owner.stateDir, (path) => path === "images");
  walk(owner.runDir, owner.runDir, () => false);
  walk(join(owner.dir, "ipam"), join(owner.dir, "ipam"), (path) => /(^|\/)(lock|last_reserved_ip.*)$/.test(path));
  return found.sort();
}

/** Removes by force whatever `owner` has on the node. For a test's end: what was to be checked has been checked. */
export async function sweepNode(owner: Owner): Promise<void> {
  for (let round = 0; round < 20; round++) {
    const alive = processes(owner);
    if (alive.length === 0) break;
    for (const { pid } of alive) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // gone already
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  for (const mount of mounts(owner).reverse()) await run(["umount", "-l", mount], { okCodes: [0, 1, 32] });
  for (const link of await links(owner)) {
    await run(["ip", "link", "del", link.split("@")[0] ?? link], { okCodes: [0, 1] });
  }
  await run(["ip", "link", "del", owner.bridge], { okCodes: [0, 1] });
  for (const entry of safeList("/run/netns")) {
    if ([...owner.crictl.podIds].some((id) => entry.name.includes(id.slice(0, 12)))) {
      await run(["ip", "netns", "del", entry.name], { okCodes: [0, 1] });
    }
  }
  for (const cgroup of cgroups(owner).reverse()) {
    try {
      rmdirSync(cgroup);
    } catch {
      // the next boot's business: an empty cgroup of a test
    }
  }
}
