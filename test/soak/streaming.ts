/**
 * Streams that are long, in bytes and in time, through the real crictl into a real VM; on demand, for it takes as long as it says:
 *   node dist/test/soak/streaming.js [GB] [IDLE MINUTES]          (after `make build test-setup`; as root; defaults 10 and 60)
 * GB gigabytes come out of one exec while another stands idle for the minutes, and both must be whole in the end. Every 10 s: what came, and the memory of
 * server and VMM. Fails where the server's grew by more than 96 MiB, or anything is left of the sessions.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../../src/host/deadline.js";
import { TestImages } from "../support/images.js";
import { busybox } from "../support/manifests.js";
import { Podvm } from "../support/podvm.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const PIECE = 65_536;
const pieces = Math.ceil((Number(process.argv[2] ?? 10) * 1e9) / PIECE);
const idleMs = Number(process.argv[3] ?? 60) * 60_000;
const MOST_GROWTH = 96 << 20;

const images = await TestImages.served("busybox");
const podvm = await Podvm.started({ mirror: images.url });

function crictl(...args: string[]): ChildProcess {
  const config = join(podvm.dir, "crictl", "crictl.yaml");
  return spawn(tool("crictl"), ["--config", config, ...args], { stdio: ["pipe", "pipe", "inherit"] });
}

function rss(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

const mib = (bytes: number) => `${(bytes / (1 << 20)).toFixed(0)} MiB`;

/** A shell that is spoken to once in the beginning and once in the end. */
async function idle(container: string): Promise<void> {
  const child = crictl("exec", "-i", container, "cat");
  let said = "";
  child.stdout?.on("data", (data) => {
    said += data;
  });
  child.stdin?.write("before ");
  await until("the first echo", 60_000, () => said === "before ");
  await sleep(idleMs);
  child.stdin?.end("after");
  const [code] = await once(child, "close");
  if (code !== 0 || said !== "before after") throw new Error(`idle session: exit code ${code}, it said ${said}`);
  console.log(`idle for ${idleMs / 60_000} min, then went on`);
}

async function long(container: string, vmm: number): Promise<void> {
  const send = (count: number) => ["exec", container, "dd", "if=/dev/zero", `bs=${PIECE}`, `count=${count}`];
  const drain = async (child: ChildProcess, onData: (bytes: number) => void) => {
    child.stdout?.on("data", (data: Buffer) => onData(data.length));
    const [code] = await once(child, "close");
    if (code !== 0) throw new Error(`exec ended with ${code}`);
  };
  await drain(crictl(...send(1000)), () => {}); // what a server keeps after its first stream
  const before = rss(podvm.pid);
  const begun = performance.now();
  let bytes = 0;
  let most = 0;
  const report = () => {
    most = Math.max(most, rss(podvm.pid));
    const seconds = (performance.now() - begun) / 1000;
    const speed = (bytes / 1e6 / seconds).toFixed(1);
    console.log(
      `${seconds.toFixed(0)} s: ${(bytes / 1e9).toFixed(2)} GB, ${speed} MB/s; server ${mib(rss(podvm.pid))}, VMM ${mib(rss(vmm))}`,
    );
  };
  const timer = setInterval(report, 10_000);
  try {
    await drain(crictl(...send(pieces)), (more) => {
      bytes += more;
    });
  } finally {
    clearInterval(timer);
  }
  report();
  if (bytes !== pieces * PIECE) throw new Error(`wanted ${pieces * PIECE} bytes, found ${bytes}`);
  if (most - before > MOST_GROWTH) throw new Error(`the server grew from ${mib(before)} to ${mib(most)}`);
}

try {
  await podvm.crictl.run("pull", busybox);
  const { podId, id } = await podvm.podWith();
  const { info } = await podvm.crictl.json<{ info: { pid: number } }>("inspectp", "-o", "json", podId);
  await Promise.all([long(id, Number(info.pid)), idle(id)]);
  const left = await podvm.crictl.exec(id, "sh", "-c", "ps | grep -cE '[d]d if=|[c]at$' || true");
  if (left !== "0") throw new Error(`${left} commands are left`);
  console.log("whole, and nothing left");
} finally {
  await podvm.destroy();
  await images.close();
}
