/**
 * How fast bytes go between a client of CRI and a container in a VM, and which process's time it takes:
 *   node dist/bench/stream.js [MB] [ROUNDS] [spdy|websocket]          (after `make build test-setup`; as root)
 * Exec out and in, attach out, port-forward out and in by the real crictl, and the container's log; MB megabytes each (default 200), ROUNDS times
 * each (default 1: the fastest counts). Beside the speed: CPU seconds of the guest's processor, of QEMU's other threads, of the server and of the client.
 * Runs a server, a registry and an image of its own, and removes all of it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { connect } from "node:net";
import { cpus } from "node:os";
import { join } from "node:path";
import { TestImages } from "../test/support/images.js";
import { busybox, containerConfig, type PodConfig } from "../test/support/manifests.js";
import { Podvm } from "../test/support/podvm.js";
import { tool } from "../test/support/tools.js";
import { until } from "../test/support/until.js";

const MB = 1_000_000;
const PIECE = 65_536;
const pieces = Math.ceil((Number(process.argv[2] ?? 200) * MB) / PIECE);
const bytes = pieces * PIECE;
const rounds = Number(process.argv[3] ?? 1);
const transport = process.argv[4] ?? "spdy";
const deadlineMs = 600_000;
const send = `dd if=/dev/zero bs=${PIECE} count=${pieces} 2>/dev/null`;

const images = await TestImages.served("busybox");
const podvm = await Podvm.started({ mirror: images.url });
const config = join(podvm.dir, "crictl", "crictl.yaml");

function crictl(...args: string[]): ChildProcess {
  return spawn(tool("crictl"), ["--config", config, ...args], { stdio: ["pipe", "pipe", "inherit"] });
}

/** Bytes of a command's output, until it ends. */
async function drain(child: ChildProcess): Promise<number> {
  let count = 0;
  child.stdout?.on("data", (data: Buffer) => {
    count += data.length;
  });
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`crictl ended with ${code}`);
  return count;
}

/** Writes `bytes` zeros and ends the stream. */
async function fill(stream: NodeJS.WritableStream): Promise<void> {
  const piece = Buffer.alloc(PIECE);
  for (let i = 0; i < pieces; i++) if (!stream.write(piece)) await once(stream, "drain");
  stream.end();
}

async function want(count: number | Promise<number>): Promise<void> {
  const found = await count;
  if (found < bytes) throw new Error(`wanted ${bytes} bytes, found ${found}`);
}

/** Seconds of CPU: of the guest's processors (all threads but the first are theirs, but for little), of QEMU's main loop, of the server. */
function cpu(vmm: number): number[] {
  const main = ticks(`/proc/${vmm}/task/${vmm}/stat`);
  return [ticks(`/proc/${vmm}/stat`) - main, main, ticks(`/proc/${podvm.pid}/stat`)];
}

function ticks(path: string): number {
  const fields = readFileSync(path, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function measure(what: string, vmm: number, work: () => Promise<{ seconds: number }>): Promise<void> {
  let best: { seconds: number; used: number[] } | undefined;
  for (let i = 0; i < rounds; i++) {
    const before = cpu(vmm);
    const { seconds } = await work();
    const used = cpu(vmm).map((time, at) => time - (before[at] ?? 0));
    if (!best || seconds < best.seconds) best = { seconds, used };
  }
  if (!best) return;
  const speed = (bytes / MB / best.seconds).toFixed(1);
  const times = best.used.map((time) => time.toFixed(1).padStart(8)).join("");
  console.log(`${what.padEnd(20)}${speed.padStart(8)} MB/s ${best.seconds.toFixed(1).padStart(8)}${times}`);
}

async function timed(work: () => Promise<unknown>): Promise<{ seconds: number }> {
  const begun = performance.now();
  await work();
  return { seconds: (performance.now() - begun) / 1000 };
}

/** A port of the host that leads to the port of the pod, while `work` runs. */
async function forwarded<T>(pod: string, port: number, work: (local: number) => Promise<T>): Promise<T> {
  const child = crictl("port-forward", "-r", transport, pod, `0:${port}`);
  try {
    let said = "";
    child.stdout?.on("data", (data) => {
      said += data;
    });
    const find = () => /Forwarding from 127\.0\.0\.1:(\d+)/.exec(said)?.[1];
    return await work(Number(await until("the local port", 30_000, find)));
  } finally {
    child.kill("SIGKILL");
    await once(child, "close");
  }
}

/** Lines of 120 bytes, as fast as a container can write them, until all of them are in its log. */
async function logged(pod: string, podConfig: PodConfig): Promise<{ seconds: number }> {
  const line = "x".repeat(119);
  const lines = 50_000;
  const repeats = Math.ceil(bytes / (lines * 120));
  const script = `yes ${line} | head -n ${lines} >/tmp/l; echo ready; read go; cat ${"/tmp/l ".repeat(repeats)}`;
  const wanted = { ...containerConfig({ command: ["sh", "-c", script], stdin: true }), stdin_once: true };
  const id = await podvm.crictl.start(pod, wanted, podConfig);
  const { logPath } = await podvm.crictl.inspect(id);
  await until("the container has its lines", 60_000, () => statSync(logPath).size > 0);
  const attach = crictl("attach", "-i", id);
  attach.stdout?.resume();
  const result = await timed(async () => {
    attach.stdin?.end("\n");
    await until("the log is whole", deadlineMs, () => statSync(logPath).size >= repeats * lines * 120);
  });
  if (attach.exitCode === null) await once(attach, "close");
  return result;
}

try {
  await podvm.crictl.run("pull", busybox);
  const { config: podConfig, podId, id } = await podvm.podWith();
  const status = await podvm.crictl.json<{ info: { pid: number } }>("inspectp", "-o", "json", podId);
  const vmm = Number(status.info.pid);
  console.log(`${bytes / MB} MB each, ${transport}; ${cpus().length} × ${cpus()[0]?.model.trim()}`);
  console.log(`${"".padEnd(20)}${"speed".padStart(13)} ${"s".padStart(8)}    guest    QEMU  server  (CPU s)`);
  const exec = (...args: string[]) => crictl("exec", "-r", transport, ...args);
  await measure("exec out", vmm, () => timed(() => want(drain(exec(id, "sh", "-c", send)))));
  await measure("exec in", vmm, () =>
    timed(async () => {
      const child = exec("-i", id, "sh", "-c", "cat >/dev/null");
      const done = drain(child);
      await fill(child.stdin as NodeJS.WritableStream);
      await done;
    }),
  );
  await measure("attach out", vmm, async () => {
    const command = ["sh", "-c", `read go; ${send}`];
    const wanted = { ...containerConfig({ command, stdin: true }), stdin_once: true };
    const waiting = await podvm.crictl.start(podId, wanted, podConfig);
    const child = crictl("attach", "-r", transport, "-i", waiting);
    child.stdin?.write("\n");
    return timed(() => want(drain(child)));
  });
  await measure("log, lines of 120", vmm, () => logged(podId, podConfig));
  for (const [port, program] of [
    [7001, send],
    [7002, "cat >/dev/null"],
  ] as const) {
    await podvm.crictl.start(
      podId,
      containerConfig({ command: ["nc", "-ll", "-p", String(port), "-e", "sh", "-c", program] }),
      podConfig,
    );
    await until(`port ${port} of the pod`, 60_000, async () => {
      const listens = ["sh", "-c", `netstat -ltn | grep -q :${port}`];
      return (await podvm.crictl.attempt(["exec", "--sync", id, ...listens])).code === 0;
    });
  }
  await measure("port-forward out", vmm, () =>
    forwarded(podId, 7001, (local) =>
      timed(async () => {
        const socket = connect(local, "127.0.0.1");
        let count = 0;
        socket.on("data", (data) => {
          count += data.length;
        });
        await once(socket, "close");
        await want(count);
      }),
    ),
  );
  await measure("port-forward in", vmm, () =>
    forwarded(podId, 7002, (local) =>
      timed(async () => {
        const socket = connect({ port: local, host: "127.0.0.1", allowHalfOpen: true });
        socket.resume();
        await fill(socket);
        await once(socket, "close");
      }),
    ),
  );
} finally {
  await podvm.destroy();
  await images.close();
}
