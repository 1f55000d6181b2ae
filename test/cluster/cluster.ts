/**
 * Kubernetes on one node, all of it real: etcd, API server, controllers, scheduler, kubelet, kube-proxy, and PodVM as the runtime.
 * `state.json` in the cluster's folder is written before each thing that it names is made, so that `down` undoes whatever `up` got to.
 */
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type RunResult, run } from "../../src/host/run.js";
import { kubeletFolders, removeKubeletFolders } from "../support/kubelet-folders.js";
import { readSysctls, restoreSysctls } from "../support/sysctls.js";
import { projectRoot, tool } from "../support/tools.js";
import { until } from "../support/until.js";
import { makeIdentities } from "./identity.js";
import { type ClusterOptions, kubeconfig } from "./options.js";
import { removePods, serveArgv, writeServerConfig } from "./podvm-server.js";
import { end, type Started, start, upAndRunning } from "./processes.js";
import * as programs from "./programs.js";
import { kubernetesChains, removeChains } from "./rules.js";

interface State {
  version: 1;
  options: ClusterOptions;
  sysctls: Record<string, string>;
  /** In the order of their start. */
  processes: Started[];
  /** kube-proxy has run: its rules are on the node. */
  proxied: boolean;
  /** Chains with Kubernetes' prefix that were there before. */
  foreignChains: string[];
  /** Folders that every kubelet makes, whatever its root is, and that were not there before. */
  absentFolders: string[];
}

const statePath = (dir: string) => join(dir, "state.json");
const bundleBin = () => join(tool("assets"), "bundle/current/bin");
/** kube-proxy looks for iptables in PATH; the bundle's is the one that PodVM's CNI plugins use. */
const environment = () => ({ ...process.env, PATH: `${bundleBin()}:${process.env.PATH}` });

export class Cluster {
  private constructor(
    readonly options: ClusterOptions,
    private readonly state: State,
  ) {}

  /** Brings it all up, saying what is being done. What a failure leaves is undone. */
  static async up(options: ClusterOptions, say: (what: string) => void = () => {}): Promise<Cluster> {
    if (existsSync(statePath(options.dir))) {
      throw new Error(`${statePath(options.dir)} is there: a cluster is up, or was not ended; run make cluster-down`);
    }
    const foreignChains = await kubernetesChains();
    if (foreignChains.includes("KUBE-SERVICES")) {
      throw new Error(
        "the chain KUBE-SERVICES is there: another kube-proxy works on this machine, and two undo each other's work",
      );
    }
    const absentFolders = kubeletFolders.filter((path) => !existsSync(path));
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    const state: State = {
      version: 1,
      options,
      sysctls: readSysctls(),
      processes: [],
      proxied: false,
      foreignChains,
      absentFolders,
    };
    const cluster = new Cluster(options, state);
    await cluster.save();
    try {
      await cluster.bringUp(say);
    } catch (err) {
      await cluster.down().catch((more: Error) => say(`and while undoing: ${more.message}`));
      throw err;
    }
    return cluster;
  }

  /** The cluster whose state is in `dir`; undefined where there is none. */
  static async found(dir: string): Promise<Cluster | undefined> {
    if (!existsSync(statePath(dir))) return undefined;
    const state = JSON.parse(await readFile(statePath(dir), "utf8")) as State;
    if (state.version !== 1) throw new Error(`${statePath(dir)}: version ${state.version}, wanted 1`);
    return new Cluster(state.options, state);
  }

  private async bringUp(say: (what: string) => void): Promise<void> {
    const { options } = this;
    const { dir, nodeIp, link } = options;
    for (const folder of ["manifests", "logs", "plugins"]) await mkdir(join(dir, folder), { recursive: true });
    await makeIdentities(options);
    await run(["ip", "link", "add", link, "type", "bridge"]);
    await run(["ip", "addr", "add", `${nodeIp}/32`, "dev", link]);
    await run(["ip", "link", "set", link, "up"]);

    say("etcd and API server");
    await this.start("etcd", programs.etcd(options));
    await this.start("apiserver", programs.apiserver(options), 120_000, async () => {
      return (await this.attempt(["get", "--raw", "/readyz"])).code === 0;
    });
    say("controllers and scheduler");
    await this.start("controllers", programs.controllers(options));
    await this.start("scheduler", programs.scheduler(options));
    let socket = options.socket;
    if (!socket) {
      say("PodVM");
      socket = await writeServerConfig(options);
      await this.start("podvm", serveArgv(options), 60_000, async () => existsSync(socket as string));
    }
    say("kubelet");
    await this.json("kubelet.json", programs.kubeletConfig(options, socket));
    await writeFile(join(dir, "resolv.conf"), "nameserver 192.0.2.53\n"); // there is no DNS in this cluster
    await this.start("kubelet", programs.kubelet(options), 120_000, async () => {
      const node = await this.attempt(["wait", "--for=condition=Ready", `node/${options.node}`, "--timeout=1s"]);
      return node.code === 0;
    });
    say("kube-proxy");
    await this.json("proxy.json", programs.proxyConfig(options));
    this.state.proxied = true;
    await this.save();
    await this.start("proxy", programs.proxy(options), 30_000, async () => {
      return (await fetch(`http://127.0.0.1:${options.ports.proxyHealth}/healthz`)).ok;
    });
    say("RuntimeClasses");
    await this.kubectl("apply", "-f", join(projectRoot, "deploy/runtimeclasses.yaml"));
    // Pods are refused until their namespace has an account for them.
    await until("the default service account", 60_000, async () => {
      return (await this.attempt(["get", "serviceaccount", "default"])).code === 0;
    });
  }

  private async start(
    name: string,
    argv: [string, ...string[]],
    deadlineMs = 30_000,
    ask: () => Promise<boolean> = async () => true,
  ): Promise<void> {
    const started = await start(this.options.dir, name, argv, environment());
    this.state.processes.push(started);
    await this.save();
    await upAndRunning(this.options.dir, started, deadlineMs, ask);
  }

  private save(): Promise<void> {
    return this.json("state.json", this.state);
  }

  private async json(name: string, value: unknown): Promise<void> {
    const path = join(this.options.dir, name);
    await writeFile(`${path}.tmp`, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600 });
    await rename(`${path}.tmp`, path);
  }

  /** Any exit code is an answer. */
  attempt(args: string[], deadlineMs = 120_000, input = ""): Promise<RunResult> {
    return run([tool("kubectl"), `--kubeconfig=${kubeconfig(this.options, "admin")}`, ...args], {
      deadlineMs,
      input,
      maxOutput: 64 << 20,
      okCodes: Array.from({ length: 256 }, (_, code) => code),
    });
  }

  /** Must succeed; its standard output without the last newline. */
  async kubectl(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(args);
    if (code !== 0) throw new Error(`kubectl ${args.join(" ")}: exit code ${code}: ${stderr.trim()}`);
    return stdout.replace(/\n$/, "");
  }

  /** Ends every program, removes pods, rules, bridge, mounts, cgroups, folder; gives the kernel its settings back. */
  async down(): Promise<void> {
    const { dir, link, podBridge, socket, runDir } = this.options;
    const ours = this.state.processes;
    const podvm = ours.find(({ name }) => name === "podvm");
    // Kubelet first, so that nothing is started again; PodVM, which must remove the pods, last.
    const others = ours.filter((one) => one !== podvm);
    for (const one of others.reverse()) await end(one);
    if (podvm) {
      await removePods(this.options, podvm);
      await end(podvm);
    }
    if (this.state.proxied) {
      await run([tool("kube-proxy"), "--cleanup", `--config=${join(dir, "proxy.json")}`], {
        env: environment(),
        deadlineMs: 60_000,
      });
      await removeChains(this.state.foreignChains);
    }
    for (const name of podvm ? [link, podBridge] : [link]) await run(["ip", "link", "del", name], { okCodes: [0, 1] });
    for (const mount of mountsBelow(dir)) await run(["umount", "-l", mount], { okCodes: [0, 32] });
    await removeLogLinks(dir);
    await removeKubeletFolders(this.state.absentFolders);
    await removeCgroups(this.options.cgroupRoot);
    restoreSysctls(this.state.sysctls);
    if (!socket) await rm(runDir, { recursive: true, force: true });
    await rm(dir, { recursive: true, force: true });
  }
}

function mountsBelow(dir: string): string[] {
  const points = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "");
  return points.filter((point) => point.startsWith(`${dir}/`)).reverse();
}

async function removeLogLinks(dir: string): Promise<void> {
  const folder = "/var/log/containers";
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (lstatSync(path).isSymbolicLink() && readlinkSync(path).startsWith(`${dir}/`)) await rm(path);
  }
}

/** kubelet's own, which are empty now. */
async function removeCgroups(root: string): Promise<void> {
  const roots = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => join(line.split(" ")[4] ?? "", root));
  const remove = async (folder: string): Promise<void> => {
    if (!existsSync(folder)) return;
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.isDirectory()) await remove(join(folder, entry.name));
    }
    await rmdir(folder).catch(() => undefined); // in use: by another kubelet
  };
  for (const mounted of roots) await remove(join(mounted, "kubepods"));
}
