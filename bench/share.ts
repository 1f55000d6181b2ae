/**
 * The FUSE relay beside virtio-fs, in one VM, on one folder of the host:
 *   node dist/bench/share.js [ROUNDS] [MIB] [FILES]          (after `make build test-setup`; as root)
 * A pod (1 vCPU, 512 MiB) whose privileged container sees a folder through podvm-share and another one, mounted as virtio-fs, through Debian's virtiofsd
 * with its defaults (cache=auto). bench/fs tries both in turns, ROUNDS times (default 3), with a file of MIB MiB (default 64) and FILES small files
 * (default 1000). Prints the medians and relay / virtiofsd (more than 1: the relay is faster), then the same as JSON.
 * Runs a server and a registry of its own, and removes all of it; virtiofsd stays unpacked in /var/cache/podvm.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../src/host/run.js";
import { TestImages } from "../test/support/images.js";
import { busybox } from "../test/support/manifests.js";
import { Podvm } from "../test/support/podvm.js";
import { projectRoot, tool } from "../test/support/tools.js";
import { until } from "../test/support/until.js";

const [rounds, mib, files] = [3, 64, 1000].map((usual, i) => Number(process.argv[2 + i] ?? usual));
const target = "x86_64-unknown-linux-musl";
const deadlineMs = 600_000;
const kinds = ["relay", "virtiofsd"] as const;
type Kind = (typeof kinds)[number];

const dir = mkdtempSync("/var/tmp/podvm-bench-");
const results = new Map<string, { unit: string } & Record<Kind, number[]>>();
const undo: (() => Promise<unknown>)[] = [() => rm(dir, { recursive: true, force: true })];
try {
  await measure();
} finally {
  for (const step of undo.reverse()) await step();
}

async function measure(): Promise<void> {
  const build = ["cargo", "build", "--locked", "--release", "--target", target, "-p", "podvm-fs-bench"] as const;
  await run(build, { cwd: projectRoot, deadlineMs });
  const cache = process.env.PODVM_CACHE ?? "/var/cache/podvm";
  mkdirSync(`${cache}/tools`, { recursive: true });
  const daemon = `${cache}/tools/virtiofsd`;
  await run([join(projectRoot, "bench/virtiofsd.sh"), daemon], { deadlineMs });
  for (const kind of kinds) mkdirSync(join(dir, kind));
  copyFileSync(join(projectRoot, "target", target, "release/fs-bench"), join(dir, "relay/fs-bench"));

  const socket = join(dir, "socket/virtiofs");
  mkdirSync(join(dir, "socket"));
  const { version, child } = await startDaemon(daemon, socket, join(dir, "virtiofsd"));
  const images = await TestImages.served("busybox");
  undo.push(() => images.close());
  const podvm = await Podvm.started({ mirror: images.url, assetsDir: assets(socket) });
  undo.push(() => podvm.destroy());
  const { crictl } = podvm;
  await crictl.run("pull", busybox);
  const privileged = { linux: { security_context: { privileged: true } } };
  const mounts = [{ container_path: "/relay", host_path: join(dir, "relay") }];
  const { podId, id } = await podvm.podWith({ ...privileged, mounts }, privileged);
  const sh = async (script: string) =>
    (
      await run([tool("crictl"), "--config", join(podvm.dir, "crictl/crictl.yaml"), "exec", id, "sh", "-c", script], {
        deadlineMs,
      })
    ).stdout;
  await sh("mv /relay/fs-bench /fs-bench && mkdir /virtiofsd && mount -t virtiofs bench /virtiofsd");
  const guest = (await sh("uname -r")).trim();
  for (let round = 0; round < (rounds ?? 0); round++) {
    for (const kind of round % 2 === 0 ? kinds : [...kinds].reverse()) {
      take(kind, await sh(`/fs-bench /${kind} ${mib} ${files}`));
    }
  }
  await podvm.removePod(podId);
  if (child.exitCode !== null && child.exitCode !== 0) throw new Error(`virtiofsd ended with ${child.exitCode}`);
  report({ machine: `${cpus().length} CPUs, host kernel ${release()}, guest kernel ${guest}`, virtiofsd: version });
}

/** In the foreground; it ends by itself when the VMM's connection does. */
async function startDaemon(
  folder: string,
  socket: string,
  source: string,
): Promise<{ version: string; child: ChildProcess }> {
  const env = { ...process.env, LD_LIBRARY_PATH: folder };
  const program = join(folder, "virtiofsd");
  const version = (await run([program, "--version"], { env })).stdout.split("\n")[0] ?? "";
  // The one in C takes the folder as an option of -o, the one in Rust as --shared-dir.
  const inC = (await run([program, "--help"], { env })).stdout.includes("source=PATH");
  const where = inC ? ["-o", `source=${source},log_level=warn`] : ["--shared-dir", source, "--log-level", "warn"];
  const child = spawn(program, [`--socket-path=${socket}`, ...where], { env, stdio: ["ignore", "ignore", "inherit"] });
  undo.push(async () => child.kill());
  await until("virtiofsd listens", 10_000, () => existsSync(socket));
  chmodSync(socket, 0o666); // the VMM has a user of its own
  return { version, child };
}

/** The assets under test, with another podvm-launch. */
function assets(socket: string): string {
  const [from, to] = [tool("assets"), join(dir, "assets")];
  mkdirSync(join(to, "bin"), { recursive: true });
  for (const name of ["bundle", "guest", "bin/podvm-share", "bin/podvm-agent"]) {
    if (existsSync(join(from, name))) symlinkSync(join(from, name), join(to, name));
  }
  const script = fileURLToPath(new URL("share-launch.js", import.meta.url));
  const command = [process.execPath, script, join(from, "bin/podvm-launch"), socket]
    .map((word) => `'${word}'`)
    .join(" ");
  writeFileSync(join(to, "bin/podvm-launch"), `#!/bin/sh\nexec ${command}\n`, { mode: 0o755 });
  return to;
}

function take(kind: Kind, output: string): void {
  for (const line of output.trim().split("\n")) {
    const [name = "", value, unit = ""] = line.split(" ");
    const result = results.get(name) ?? { unit, relay: [], virtiofsd: [] };
    results.set(name, result);
    result[kind].push(Number(value));
  }
}

function report(about: Record<string, string>): void {
  const median = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
  const lines = [...results].map(([name, { unit, relay, virtiofsd }]) => {
    const [ours, theirs] = [median(relay), median(virtiofsd)];
    return {
      name,
      unit,
      relay: ours,
      virtiofsd: theirs,
      ratio: Math.round((100 * ours) / theirs) / 100,
      all: { relay, virtiofsd },
    };
  });
  console.log(`${about.machine}; ${about.virtiofsd}; ${rounds} rounds, ${mib} MiB, ${files} files`);
  for (const { name, unit, relay, virtiofsd, ratio } of lines) {
    const figure = (value: number) => value.toFixed(value < 100 ? 1 : 0).padStart(8);
    console.log(
      `  ${name.padEnd(20)} relay ${figure(relay)}  virtiofsd ${figure(virtiofsd)} ${unit.padEnd(9)}  ratio ${ratio.toFixed(2)}`,
    );
  }
  console.log(JSON.stringify({ ...about, rounds, mib, files, lines }));
}
