/**
 * A real kubelet in standalone mode (no API server) on one test server's socket: static pods from a folder, everything it keeps below the
 * server's own folder, ports and cgroup root of its own. One at a time on a machine: they share /var/lib/kubelet/device-plugins.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { request } from "node:https";
import { join } from "node:path";
import { kubeletFolders, logLinks, removeKubeletFolders } from "./kubelet-folders.js";
import { random } from "./manifests.js";
import type { Podvm } from "./podvm.js";
import { freePort } from "./registry.js";
import { readSysctls, restoreSysctls } from "./sysctls.js";
import { tool } from "./tools.js";
import { until } from "./until.js";

/** The parts of a pod's status that the tests read. */
export interface KubePod {
  metadata: { name: string; namespace: string; uid: string };
  spec: { containers: { name: string }[] };
  status: {
    phase: string;
    reason?: string;
    podIP?: string;
    podIPs?: { ip: string }[];
    conditions?: { type: string; status: string }[];
    containerStatuses?: KubeContainer[];
    initContainerStatuses?: KubeContainer[];
  };
}
interface Ended {
  exitCode: number;
  reason: string;
  message?: string;
  startedAt: string;
  finishedAt: string;
  containerID: string;
}
export interface KubeContainer {
  name: string;
  containerID: string;
  imageID: string;
  ready: boolean;
  started?: boolean;
  restartCount: number;
  state: { running?: { startedAt: string }; waiting?: { reason: string; message?: string }; terminated?: Ended };
  lastState: { terminated?: Ended };
}

/** A static pod as written to the folder: `spec` is Kubernetes' own. */
export interface Manifest {
  name?: string;
  annotations?: Record<string, string>;
  labels?: Record<string, string>;
  spec: Record<string, unknown>;
}

export interface Answer {
  status: number;
  body: string;
}

export class Kubelet {
  readonly dir: string;
  readonly manifests: string;
  readonly log: string;
  private port = 0;
  private healthz = 0;
  private child: ChildProcess | undefined;
  private readonly sysctls = readSysctls();
  private readonly absentFolders = kubeletFolders.filter((path) => !existsSync(path));

  private constructor(
    private readonly podvm: Podvm,
    private readonly config: Record<string, unknown>,
  ) {
    this.dir = join(podvm.dir, "kubelet");
    this.manifests = join(this.dir, "manifests");
    this.log = join(podvm.dir, "kubelet.log");
  }

  /** Folders, configuration, process; resolves when the kubelet is healthy. `config` goes over the fields of KubeletConfiguration. */
  static async started(podvm: Podvm, config: Record<string, unknown> = {}): Promise<Kubelet> {
    const kubelet = new Kubelet(podvm, config);
    try {
      await kubelet.prepare();
      await kubelet.start();
    } catch (err) {
      await kubelet.destroy();
      throw err;
    }
    return kubelet;
  }

  /** https://127.0.0.1:PORT */
  get url(): string {
    return `https://127.0.0.1:${this.port}`;
  }

  /** What static pods are called after their own name: the node. */
  get node(): string {
    return this.podvm.tag;
  }

  private async prepare(): Promise<void> {
    for (const folder of [this.dir, this.manifests, join(this.dir, "root")]) await mkdir(folder, { recursive: true });
    this.port = await freePort();
    this.healthz = await freePort();
    await writeFile(join(this.dir, "resolv.conf"), "nameserver 192.0.2.53\nsearch example.test\n");
    const config = {
      apiVersion: "kubelet.config.k8s.io/v1beta1",
      kind: "KubeletConfiguration",
      failCgroupV1: false, // a node may have either
      cgroupDriver: "cgroupfs",
      cgroupRoot: this.podvm.cgroupParent,
      containerRuntimeEndpoint: `unix://${this.podvm.socket}`,
      staticPodPath: this.manifests,
      podLogsDir: this.podvm.logDir,
      volumePluginDir: join(this.dir, "plugins"),
      address: "127.0.0.1",
      port: this.port,
      readOnlyPort: 0,
      healthzPort: this.healthz,
      authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
      authorization: { mode: "AlwaysAllow" },
      failSwapOn: false,
      makeIPTablesUtilChains: false,
      registerNode: false,
      resolvConf: join(this.dir, "resolv.conf"),
      // The disk is shared with everything else on the machine.
      evictionHard: { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
      imageGCHighThresholdPercent: 99,
      imageGCLowThresholdPercent: 98,
      // An emulated VM takes its time.
      runtimeRequestTimeout: "4m",
      syncFrequency: "5s",
      ...this.config,
    };
    await writeFile(join(this.dir, "kubelet.json"), JSON.stringify(config, null, 2));
  }

  async start(deadlineMs = 90_000): Promise<void> {
    const log = openSync(this.log, "a");
    const args = [
      `--config=${join(this.dir, "kubelet.json")}`,
      `--root-dir=${join(this.dir, "root")}`,
      `--cert-dir=${join(this.dir, "pki")}`,
      `--hostname-override=${this.node}`,
      "--v=2",
    ];
    const child = spawn(tool("kubelet"), args, { stdio: ["ignore", log, log], detached: true });
    closeSync(log);
    this.child = child;
    await until("the kubelet is healthy", deadlineMs, async () => {
      if (!this.running) throw new Error(`the kubelet ended with ${child.exitCode}:\n${this.logTail(15)}`);
      return (await this.get("/healthz")).status === 200;
    });
  }

  get running(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  async end(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    if (!this.running) return;
    this.child?.kill(signal);
    await until(`the kubelet ends after ${signal}`, 30_000, () => !this.running);
  }

  async restart(): Promise<void> {
    await this.end();
    await this.start();
  }

  /** GET or POST of kubelet's own API. */
  get(path: string, method: "GET" | "POST" = "GET", deadlineMs = 30_000): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const sent = request(`${this.url}${path}`, { method, rejectUnauthorized: false, agent: false }, (response) => {
        text(response).then((body) => resolve({ status: response.statusCode ?? 0, body }), reject);
      });
      sent.setTimeout(deadlineMs, () => sent.destroy(new Error(`${path}: no answer within ${deadlineMs} ms`)));
      sent.once("error", reject);
      sent.end();
    });
  }

  /** A command in a container, both outputs together. */
  async exec(pod: string, container: string, ...command: string[]): Promise<string> {
    const query = `cmd=${encodeURIComponent(command.join(" "))}`;
    const answer = await this.get(`/run/default/${this.full(pod)}/${container}?${query}`, "POST", 60_000);
    if (answer.status !== 200) throw new Error(`exec in ${pod}/${container}: ${answer.status} ${answer.body}`);
    return answer.body.trimEnd();
  }

  async logs(pod: string, container: string, query = ""): Promise<string> {
    const answer = await this.get(`/containerLogs/default/${this.full(pod)}/${container}${query}`);
    if (answer.status !== 200) throw new Error(`logs of ${pod}/${container}: ${answer.status} ${answer.body}`);
    return answer.body;
  }

  /** The mirror name that kubelet gives a static pod. */
  full(pod: string): string {
    return `${pod}-${this.node}`;
  }

  /** Puts a pod into the folder; its name, random where none is given. */
  async apply({ name = `p-${random(3)}`, annotations, labels, spec }: Manifest): Promise<string> {
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, namespace: "default", annotations, labels },
      spec: { terminationGracePeriodSeconds: 5, ...spec },
    };
    // Kubelet takes every file of the folder that does not begin with a dot.
    await writeFile(join(this.manifests, `.${name}`), JSON.stringify(pod));
    await rename(join(this.manifests, `.${name}`), join(this.manifests, `${name}.json`));
    return name;
  }

  async pods(): Promise<KubePod[]> {
    const answer = await this.get("/pods");
    if (answer.status !== 200) throw new Error(`/pods: ${answer.status} ${answer.body}`);
    for (const { id } of await this.podvm.crictl.pods()) this.podvm.crictl.podIds.add(id); // the sweep's names of netns
    return (JSON.parse(answer.body) as { items: KubePod[] | null }).items ?? [];
  }

  /** The pod once `wanted` holds for it; on a timeout the error shows what was there instead. */
  async pod(name: string, what: string, wanted: (pod: KubePod) => boolean, deadlineMs = 120_000): Promise<KubePod> {
    let last: KubePod | undefined;
    try {
      return await until(`pod ${name}: ${what}`, deadlineMs, async () => {
        last = (await this.pods()).find((pod) => pod.metadata.name === this.full(name));
        return last && wanted(last) ? last : undefined;
      });
    } catch (err) {
      throw new Error(`${(err as Error).message}; found: ${JSON.stringify(last?.status ?? "no such pod")}`);
    }
  }

  ready(name: string, deadlineMs?: number): Promise<KubePod> {
    return this.pod(name, "ready", isReady, deadlineMs);
  }

  /** Takes a pod's file away: kubelet, once it runs, ends the pod. */
  forget(name: string): Promise<void> {
    return rm(join(this.manifests, `${name}.json`), { force: true });
  }

  /** The same, and waits until the sandboxes are stopped. */
  async stopPod(name: string, deadlineMs = 90_000): Promise<void> {
    await this.forget(name);
    await until(`pod ${name} is stopped`, deadlineMs, async () => {
      const pods = await this.podvm.crictl.pods("--label", this.label(name));
      return pods.every(({ state }) => state === "SANDBOX_NOTREADY");
    });
  }

  private label(pod: string): string {
    return `io.kubernetes.pod.name=${this.full(pod)}`;
  }

  /** The same, and waits until runtime and kubelet have forgotten it. */
  async remove(name: string, deadlineMs = 90_000): Promise<void> {
    await this.stopPod(name, deadlineMs);
    const label = this.label(name);
    // Kubelet would remove what is dead a minute later at the earliest; the dead sandbox is of no use to a test.
    for (const { id } of await this.podvm.crictl.pods("--label", label))
      await this.podvm.crictl.run("rmp", "--force", id);
    await until(`pod ${name} is forgotten`, deadlineMs, async () => {
      const known = (await this.pods()).some((pod) => pod.metadata.name === this.full(name));
      return !known && (await this.podvm.crictl.pods("--label", label)).length === 0;
    });
  }

  /** Pods that are in the folder. */
  names(): string[] {
    return readdirSync(this.manifests).map((file) => file.replace(/\.json$/, ""));
  }

  async removeAll(): Promise<void> {
    for (const name of this.names()) await this.remove(name);
  }

  /** Links in kubelet's folder for all logs that lead into this server's; folders of pods and mounts below kubelet's own root. */
  leftovers(): string[] {
    const links = existsSync(logLinks) ? readdirSync(logLinks).map((name) => join(logLinks, name)) : [];
    const ours = links.filter(
      (path) => lstatSync(path).isSymbolicLink() && readlinkSync(path).includes(this.podvm.tag),
    );
    const pods = join(this.dir, "root/pods");
    // Its root folder is a mount point of its own as long as it runs.
    const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
    return [
      ...ours,
      ...(existsSync(pods) ? readdirSync(pods).map((name) => join(pods, name)) : []),
      ...mounts.filter((line) => line.includes(`${this.dir}/root/`)),
    ].sort();
  }

  logTail(lines = 25): string {
    if (!existsSync(this.log)) return "";
    const noise = /kubelet_node_status\.go|Creating a mirror pod/; // every few seconds
    const all = readFileSync(this.log, "utf8").trimEnd().split("\n");
    return all
      .filter((line) => !noise.test(line))
      .slice(-lines)
      .join("\n");
  }

  /** Ends it and gives the machine back its settings. Its folders and mounts go with the server's. */
  async destroy(): Promise<void> {
    await this.end();
    restoreSysctls(this.sysctls);
    for (const path of this.leftovers()) if (path.startsWith(logLinks)) await rm(path, { force: true });
    await removeKubeletFolders(this.absentFolders);
  }
}

export function isReady(pod: KubePod): boolean {
  return pod.status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}

/** The status of one container, init containers among them. */
export function containerOf(pod: KubePod, name: string): KubeContainer {
  const all = [...(pod.status.initContainerStatuses ?? []), ...(pod.status.containerStatuses ?? [])];
  const found = all.find((status) => status.name === name);
  if (!found) throw new Error(`pod ${pod.metadata.name} has no status of container ${name}`);
  return found;
}

/** The same, without an error while there is none yet. */
export const containerIfThere = (pod: KubePod, name: string): KubeContainer | undefined =>
  [...(pod.status.initContainerStatuses ?? []), ...(pod.status.containerStatuses ?? [])].find((c) => c.name === name);

async function text(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}
