/** What the VMM tests share: the parts under test, folders and names of their own, and what is to be seen of a process in /proc. */
import { randomBytes } from "node:crypto";
import { existsSync, realpathSync } from "node:fs";
import { mkdir, readdir, readFile, readlink, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { type Assets, bundleTool } from "../../src/host/assets.js";
import { openCgroups } from "../../src/host/cgroup.js";
import { run } from "../../src/host/run.js";
import { tool } from "../support/tools.js";

/** PODVM_TEST_LAUNCH: a launcher that is not installed yet. */
export function assets(): Assets {
  const folder = tool("assets");
  return {
    bundle: realpathSync(join(folder, "bundle/current")),
    guest: realpathSync(join(folder, "guest/current")),
    agent: join(folder, "bin/podvm-agent"),
    launch: realpathSync(process.env.PODVM_TEST_LAUNCH ?? join(folder, "bin/podvm-launch")),
    share: join(folder, "bin/podvm-share"),
  };
}

/** A folder beside the assets, so that their files can be hard-linked into it. Removed after the test. */
export async function folder(t: ExecutionContext): Promise<string> {
  const path = join(tool("assets"), `../test-${randomBytes(6).toString("hex")}`);
  await mkdir(path);
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** The name of a cgroup that is removed, with all its processes, after the test. */
export function cgroupName(t: ExecutionContext): string {
  const name = `/podvm-test-${randomBytes(6).toString("hex")}`;
  t.teardown(async () => (await openCgroups()).remove(name, 10_000));
  return name;
}

/** A network namespace with a tap of that user; path of the namespace. Removed after the test. */
export async function netnsWithTap(t: ExecutionContext, tap: string, uid: number): Promise<string> {
  const ip = bundleTool(assets(), "ip");
  const name = `podvm-test-${randomBytes(6).toString("hex")}`;
  await run([ip, "netns", "add", name]);
  t.teardown(async () => {
    await run([ip, "netns", "delete", name]);
  });
  await run([ip, "-n", name, "tuntap", "add", "dev", tap, "mode", "tap", "user", String(uid)]);
  return `/run/netns/${name}`;
}

/** Fields of /proc/PID/status. */
export async function status(pid: number): Promise<Record<string, string>> {
  const lines = (await readFile(`/proc/${pid}/status`, "utf8")).trim().split("\n");
  return Object.fromEntries(lines.map((line) => [line.split(":")[0], line.slice(line.indexOf(":") + 1).trim()]));
}

/** Number → what it leads to. */
export async function descriptors(pid: number): Promise<Map<number, string>> {
  const names = await readdir(`/proc/${pid}/fd`);
  return new Map(
    await Promise.all(names.map(async (n) => [Number(n), await readlink(`/proc/${pid}/fd/${n}`)] as const)),
  );
}

export async function namespaces(pid: number | "self"): Promise<Record<string, string>> {
  const kinds = ["mnt", "net", "pid", "ipc", "uts"];
  return Object.fromEntries(
    await Promise.all(kinds.map(async (k) => [k, await readlink(`/proc/${pid}/ns/${k}`)] as const)),
  );
}

/** Mount point → options, as the process sees them. */
export async function mounts(pid: number): Promise<Map<string, string[]>> {
  const lines = (await readFile(`/proc/${pid}/mountinfo`, "utf8")).trim().split("\n");
  return new Map(lines.map((line) => [line.split(" ")[4] ?? "", (line.split(" ")[5] ?? "").split(",")]));
}

/** Every file below the process's root that is no mount of the given ones. */
export async function rootContents(pid: number, binds: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  const walk = async (path: string) => {
    if (binds.includes(path)) return;
    for (const entry of await readdir(`/proc/${pid}/root${path}`, { withFileTypes: true })) {
      const child = `${path}/${entry.name}`;
      if (entry.isDirectory()) await walk(child);
      else found.push(child);
    }
  };
  await walk("");
  return found.sort();
}

/** Folders of that cgroup that exist, over all hierarchies. */
export async function cgroupFolders(name: string): Promise<string[]> {
  const roots = (await readFile("/proc/self/mountinfo", "utf8"))
    .split("\n")
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(" ")[4]);
  return roots.map((root) => `${root}${name}`).filter((path) => existsSync(path));
}
