/**
 * What the calls of a pod's life take, one pod at a time, and what an idle pod and the server weigh:
 *   node dist/bench/lifecycle.js [ROUNDS]          (after `make build test-setup`; as root)
 * Runs a server, a registry and an image of its own, over the CRI socket itself (no crictl in between), and removes all of it.
 */
import { readFile } from "node:fs/promises";
import { cpus, release, totalmem } from "node:os";
import { call, connect } from "../src/cli/client.js";
import { ContainerConfig, PodSandboxConfig } from "../src/gen/runtime/v1/api.js";
import { TestImages } from "../test/support/images.js";
import { busybox, random } from "../test/support/manifests.js";
import { Podvm } from "../test/support/podvm.js";

const rounds = Number(process.argv[2] ?? 10);
const times = new Map<string, number[]>();

async function timed<T>(what: string, work: () => Promise<T>): Promise<T> {
  const begun = performance.now();
  const result = await work();
  times.set(what, [...(times.get(what) ?? []), performance.now() - begun]);
  return result;
}

const images = await TestImages.served("busybox");
const podvm = await Podvm.started({ mirror: images.url });
const clients = connect(podvm.socket);
const { runtime, image } = clients;
const minutes = 180_000;
try {
  await timed("PullImage (2 MB)", () => call(clients, image, "pullImage", { image: spec(busybox) }, minutes));
  const weights: { pod: number; server: number }[] = [];
  for (let round = 0; round < rounds; round++) weights.push(await life());
  report(weights);
} finally {
  clients.close();
  await podvm.destroy();
  await images.close();
}

async function life(): Promise<{ pod: number; server: number }> {
  const name = `bench-${random()}`;
  const config = PodSandboxConfig.fromPartial({
    metadata: { name, uid: random(8), namespace: "default", attempt: 0 },
    hostname: name,
    logDirectory: `${podvm.logDir}/${name}`,
    linux: { cgroupParent: podvm.cgroupParent },
  });
  const container = ContainerConfig.fromPartial({
    metadata: { name: "c", attempt: 0 },
    image: { image: busybox },
    command: ["sleep", "3600"],
    logPath: "c.log",
  });
  const begun = performance.now();
  const { podSandboxId } = await timed("RunPodSandbox", () =>
    call(clients, runtime, "runPodSandbox", { config, runtimeHandler: "" }, minutes),
  );
  const { containerId } = await timed("CreateContainer", () =>
    call(clients, runtime, "createContainer", { podSandboxId, config: container, sandboxConfig: config }, minutes),
  );
  await timed("StartContainer", () => call(clients, runtime, "startContainer", { containerId }, minutes));
  times.set("pod start in all", [...(times.get("pod start in all") ?? []), performance.now() - begun]);
  for (let i = 0; i < 3; i++) {
    await timed("ExecSync true", () =>
      call(clients, runtime, "execSync", { containerId, cmd: ["true"], timeout: 60n }, minutes),
    );
  }
  const status = await call(clients, runtime, "podSandboxStatus", { podSandboxId, verbose: true }, minutes);
  const info = JSON.parse(status.info.info ?? "{}") as { pid: number };
  const weights = { pod: await pss(info.pid), server: await pss(podvm.pid) };
  await timed("StopContainer (KILL)", () =>
    call(clients, runtime, "stopContainer", { containerId, timeout: 0n }, minutes),
  );
  await timed("StopPodSandbox", () => call(clients, runtime, "stopPodSandbox", { podSandboxId }, minutes));
  await timed("RemovePodSandbox", () => call(clients, runtime, "removePodSandbox", { podSandboxId }, minutes));
  return weights;
}

function report(weights: { pod: number; server: number }[]): void {
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  console.log(
    `${rounds} rounds; ${cpus().length} × ${model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Linux ${release()}`,
  );
  console.log(`${"call".padEnd(24)}${"min".padStart(9)}${"p50".padStart(9)}${"p95".padStart(9)}  ms`);
  for (const [what, all] of times) {
    const sorted = [...all].sort((a, b) => a - b);
    const at = (part: number) =>
      (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0).toFixed(0);
    console.log(`${what.padEnd(24)}${at(0).padStart(9)}${at(0.5).padStart(9)}${at(0.95).padStart(9)}`);
  }
  const middle = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  console.log(`PSS of one pod's VMM, idle: ${mib(middle(weights.map((one) => one.pod)))}`);
  console.log(`PSS of the server:          ${mib(middle(weights.map((one) => one.server)))}`);
}

function spec(name: string) {
  return { image: name, annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" };
}

async function pss(pid: number): Promise<number> {
  const rollup = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0) * 1024;
}
