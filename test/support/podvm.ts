/**
 * A private PodVM server for tests: own state and run folders, socket, CNI network (bridge, IPv4 and IPv6 subnets), range of user ids and
 * cgroup parent, all carrying one random tag, so that whatever it leaves on the node can be told from everything else.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { type RunResult, run } from "../../src/host/run.js";
import { Crictl } from "./crictl.js";
import {
  busybox,
  type ContainerOptions,
  containerConfig,
  type PodConfig,
  type PodOptions,
  podConfig,
  random,
} from "./manifests.js";
import { makeCgroup, sweepNode } from "./node.js";
import { podvmMain, tool } from "./tools.js";
import { until } from "./until.js";

export interface PodvmOptions {
  /** Base URL that every registry is mirrored to. */
  mirror?: string;
  assetsDir?: string;
  stateDir?: string;
  /** False: begin without a CNI configuration; `writeCni` brings one. Default true. */
  cni?: boolean;
  /** TOML lines of the tables vm, network, policy, beside the harness's own. */
  toml?: { vm?: string; policy?: string; top?: string };
  env?: NodeJS.ProcessEnv;
}

export class Podvm {
  readonly tag = `podvmt${random(3)}`;
  readonly dir = join("/var/tmp", this.tag);
  readonly stateDir: string;
  readonly runDir = join("/run", this.tag);
  readonly socket = join(this.runDir, "podvm.sock");
  readonly confDir = join(this.dir, "net.d");
  readonly logDir = join(this.dir, "pods");
  readonly configFile = join(this.dir, "config.toml");
  readonly serverLog = join(this.dir, "server.log");
  readonly cgroupParent = `/${this.tag}`;
  readonly bridge = `b${this.tag.slice(5)}`;
  readonly uidBase = 3_000_000 + randomInt(0, 10_000) * 1000;
  readonly uidCount = 1000;
  /** First three parts of the IPv4 subnet, a /24. */
  readonly subnet = `10.${randomInt(100, 250)}.${randomInt(0, 256)}`;
  readonly subnet6 = `fd${random(1)}:${random(2)}:${random(2)}`;
  readonly crictl: Crictl;
  private child: ChildProcess | undefined;
  private exit: { code: number | null; signal: string | null } | undefined;

  constructor(private readonly options: PodvmOptions = {}) {
    this.stateDir = options.stateDir ?? join(this.dir, "state");
    this.crictl = new Crictl(join(this.dir, "crictl"), this.socket);
  }

  /** Folders, configuration and server; resolves when the socket answers. */
  static async started(options: PodvmOptions = {}): Promise<Podvm> {
    const podvm = new Podvm(options);
    await podvm.prepare();
    try {
      await podvm.start();
    } catch (err) {
      await podvm.destroy();
      throw err;
    }
    return podvm;
  }

  async prepare(): Promise<void> {
    for (const folder of [this.dir, this.stateDir, this.runDir, this.confDir, this.logDir]) {
      await mkdir(folder, { recursive: true });
    }
    makeCgroup(this.cgroupParent); // as kubelet does for its pods; taken away by the sweep
    await this.crictl.open();
    await writeFile(this.configFile, this.configText());
    if (this.options.cni !== false) await this.writeCni();
  }

  private configText(): string {
    const { mirror, assetsDir = tool("assets"), toml = {} } = this.options;
    const registries = mirror
      ? `[image.registries."*"]\nmirrors = ["${mirror}"]\n[image.registries."${new URL(mirror).host}"]\nplain_http = true\n`
      : "";
    return `state_dir = "${this.stateDir}"
run_dir = "${this.runDir}"
socket = "${this.socket}"
assets_dir = "${assetsDir}"
${toml.top ?? ""}
[log]
level = "debug"
[network]
conf_dir = "${this.confDir}"
[vm]
uid_base = ${this.uidBase}
uid_count = ${this.uidCount}
start_timeout_seconds = 120
${toml.vm ?? ""}
${registries}
[policy]
${toml.policy ?? ""}
`;
  }

  /** A bridge network with portmap and firewall, IPv4 and IPv6; its address records lie in this server's folder. */
  async writeCni(): Promise<void> {
    const conflist = {
      cniVersion: "1.0.0",
      name: this.tag,
      plugins: [
        {
          type: "bridge",
          bridge: this.bridge,
          isGateway: true,
          ipMasq: true,
          hairpinMode: true,
          ipam: {
            type: "host-local",
            dataDir: join(this.dir, "ipam"),
            ranges: [[{ subnet: `${this.subnet}.0/24` }], [{ subnet: `${this.subnet6}::/64` }]],
            routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
          },
        },
        { type: "portmap", capabilities: { portMappings: true } },
        { type: "firewall" },
      ],
    };
    await writeFile(join(this.confDir, "10-test.conflist"), JSON.stringify(conflist));
  }

  /** Starts the server process and waits until it accepts connections. */
  async start(deadlineMs = 60_000): Promise<void> {
    const log = openSync(this.serverLog, "a");
    const env = { ...process.env, ...this.options.env };
    const child = spawn(process.execPath, [podvmMain, "serve", "--config", this.configFile], {
      stdio: ["ignore", log, log],
      detached: true, // as under an init system: our own signals do not reach it
      env,
    });
    closeSync(log);
    this.child = child;
    this.exit = undefined;
    child.once("exit", (code, signal) => {
      this.exit = { code, signal };
    });
    await until("the server's socket answers", deadlineMs, async () => this.exit !== undefined || answers(this.socket));
    await until("the server is ready", deadlineMs, async () => {
      return this.exit !== undefined || (await this.crictl.attempt(["pods", "-q"])).code === 0;
    });
    if (this.exit) {
      throw new Error(`the server ended with ${JSON.stringify(this.exit)}; its log:\n${this.logTail(30)}`);
    }
  }

  /** Runs `serve` where it is meant to fail at start; exit code and all it said. */
  async startFails(deadlineMs = 60_000): Promise<RunResult> {
    return run([process.execPath, podvmMain, "serve", "--config", this.configFile], {
      deadlineMs,
      okCodes: Array.from({ length: 255 }, (_, i) => i + 1),
    });
  }

  /** Process id of the running server. */
  get pid(): number {
    const pid = this.child?.pid;
    if (pid === undefined || this.exit) throw new Error("the server does not run");
    return pid;
  }

  get running(): boolean {
    return this.child !== undefined && this.exit === undefined;
  }

  /** kill -9, and waits for the process to be gone. VMs live on. */
  async kill(): Promise<void> {
    await this.end("SIGKILL", 10_000);
  }

  /** SIGTERM, and waits for the process to end by itself. */
  async stop(deadlineMs = 30_000): Promise<void> {
    await this.end("SIGTERM", deadlineMs);
  }

  private async end(signal: NodeJS.Signals, deadlineMs: number): Promise<void> {
    if (!this.running) return;
    process.kill(this.pid, signal);
    await until(`the server ends after ${signal}`, deadlineMs, () => this.exit !== undefined);
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  /** Runs a podvm command against this server; any exit code is an answer. */
  cli(args: string[], deadlineMs = 180_000): Promise<RunResult> {
    return run([process.execPath, podvmMain, ...args], {
      deadlineMs,
      env: { ...process.env, PODVM_CONFIG: this.configFile },
      maxOutput: 16 << 20,
      okCodes: Array.from({ length: 256 }, (_, code) => code),
    });
  }

  pod(options: PodOptions = {}): PodConfig {
    return podConfig({ logDir: this.logDir, cgroupParent: this.cgroupParent }, options);
  }

  /** A pod with one running container. */
  async podWith(container: ContainerOptions = {}, pod: PodOptions = {}) {
    const config = this.pod(pod);
    const podId = await this.crictl.runp(config);
    const id = await this.crictl.start(podId, containerConfig(container), config);
    return { config, podId, id };
  }

  /** Pulls busybox, and runs and removes a pod, so that what a server makes once and keeps (bridge, chains, folders) is there. */
  async warmUp(): Promise<void> {
    await this.crictl.run("pull", busybox);
    const { podId } = await this.podWith();
    await this.removePod(podId);
  }

  async removePod(podId: string): Promise<void> {
    await this.crictl.run("stopp", podId);
    await this.crictl.run("rmp", podId);
  }

  async removeAllPods(): Promise<void> {
    await this.crictl.run("rmp", "--all", "--force");
  }

  logTail(lines = 40): string {
    if (!existsSync(this.serverLog)) return "";
    // crictl's way of saying hello and goodbye, and what kubelet asks every second
    const noise = /DEBUG request .*method=(Version|Status|ImageFsInfo|List\w+) |DEBUG client connection/;
    const all = readFileSync(this.serverLog, "utf8").trimEnd().split("\n");
    return all
      .filter((line) => !noise.test(line))
      .slice(-lines)
      .join("\n");
  }

  /** Ends the server and removes every trace of it and of its pods, however broken. */
  async destroy(): Promise<void> {
    if (this.running) {
      await this.crictl.attempt(["rmp", "--all", "--force"], 120_000).catch(() => {});
      await this.stop().catch(() => this.kill());
    }
    await sweepNode(this);
    for (const folder of [this.dir, this.runDir, this.stateDir]) await rm(folder, { recursive: true, force: true });
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const attempt = connect(socket);
    attempt.once("connect", () => {
      attempt.destroy();
      resolve(true);
    });
    attempt.once("error", () => resolve(false));
  });
}
