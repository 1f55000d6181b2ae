/** The real crictl against one server. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type RunResult, run } from "../../src/host/run.js";
import { type ContainerConfig, type PodConfig, random } from "./manifests.js";
import { tool } from "./tools.js";

// The parts of crictl's JSON that the tests read.
export interface PodItem {
  id: string;
  state: string;
  metadata: { name: string; namespace: string; uid: string; attempt: number };
  labels: Record<string, string>;
}
export interface ContainerItem {
  id: string;
  podSandboxId: string;
  state: string;
  metadata: { name: string; attempt: number };
  labels: Record<string, string>;
  imageId: string;
}
export interface ImageItem {
  id: string;
  repoTags: string[];
  repoDigests: string[];
  size: string;
  username: string;
  uid: { value: string } | null;
  pinned: boolean;
}
export interface ContainerStatus {
  id: string;
  state: string;
  exitCode: number;
  reason: string;
  message: string;
  logPath: string;
  createdAt: string;
  startedAt: string;
  finishedAt: string;
  imageId: string;
  imageRef: string;
  labels: Record<string, string>;
}
export interface PodStatus {
  id: string;
  state: string;
  network: { ip: string; additionalIps: { ip: string }[] };
  labels: Record<string, string>;
}

export class Crictl {
  /** Every pod made through here. */
  readonly podIds = new Set<string>();

  constructor(
    private readonly dir: string,
    private readonly socket: string,
  ) {}

  async open(): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    const endpoint = `unix://${this.socket}`;
    await writeFile(
      join(this.dir, "crictl.yaml"),
      `runtime-endpoint: ${endpoint}\nimage-endpoint: ${endpoint}\ntimeout: 120\n`,
    );
  }

  /** The program. */
  get path(): string {
    return tool("crictl");
  }

  /** Its arguments, with those that lead it to the server. */
  args(...args: string[]): string[] {
    return ["--config", join(this.dir, "crictl.yaml"), ...args];
  }

  /** Runs crictl; any exit code is an answer. Output up to 256 MiB. */
  attempt(args: string[], deadlineMs = 180_000): Promise<RunResult> {
    return run([this.path, ...this.args(...args)], {
      deadlineMs,
      maxOutput: 256 << 20,
      okCodes: Array.from({ length: 256 }, (_, code) => code),
    });
  }

  /** Runs crictl, which must succeed; its standard output without the last newline. */
  async run(...args: string[]): Promise<string> {
    const result = await this.attempt(args);
    if (result.code !== 0)
      throw new Error(`crictl ${args.join(" ")}: exit code ${result.code}: ${result.stderr.trim()}`);
    return result.stdout.replace(/\n$/, "");
  }

  /** Runs crictl, which must fail; what it said. */
  async fails(...args: string[]): Promise<string> {
    const result = await this.attempt(args);
    if (result.code === 0)
      throw new Error(`crictl ${args.join(" ")}: wanted a failure, but it succeeded: ${result.stdout}`);
    return result.stderr + result.stdout;
  }

  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.run(...args)) as T;
  }

  /** Writes a configuration to a file, as crictl wants it. */
  async file(config: object): Promise<string> {
    const path = join(this.dir, `${random()}.json`);
    await writeFile(path, JSON.stringify(config));
    return path;
  }

  async runp(config: PodConfig): Promise<string> {
    const id = await this.run("runp", await this.file(config));
    this.podIds.add(id);
    return id;
  }

  async create(pod: string, container: ContainerConfig, config: PodConfig): Promise<string> {
    return this.run("create", pod, await this.file(container), await this.file(config));
  }

  /** Creates and starts. */
  async start(pod: string, container: ContainerConfig, config: PodConfig): Promise<string> {
    const id = await this.create(pod, container, config);
    await this.run("start", id);
    return id;
  }

  /** Standard output of a command in a container, by ExecSync, which must succeed; without newlines at its end (crictl adds one). */
  async exec(container: string, ...command: string[]): Promise<string> {
    return (await this.run("exec", "--sync", container, ...command)).replace(/\n+$/, "");
  }

  async pods(...filters: string[]): Promise<PodItem[]> {
    return (await this.json<{ items: PodItem[] }>("pods", "-o", "json", ...filters)).items ?? [];
  }

  async containers(...filters: string[]): Promise<ContainerItem[]> {
    return (await this.json<{ containers: ContainerItem[] }>("ps", "-a", "-o", "json", ...filters)).containers ?? [];
  }

  async images(...filters: string[]): Promise<ImageItem[]> {
    return (await this.json<{ images: ImageItem[] }>("images", "-o", "json", ...filters)).images ?? [];
  }

  /** The image with this tag, which must be in the list. */
  async imageTagged(tag: string): Promise<ImageItem> {
    const found = (await this.images()).find(({ repoTags }) => repoTags?.includes(tag));
    if (!found) throw new Error(`crictl images does not list ${tag}`);
    return found;
  }

  async inspect(container: string): Promise<ContainerStatus> {
    return (await this.json<{ status: ContainerStatus }>("inspect", "-o", "json", container)).status;
  }

  async inspectp(pod: string): Promise<PodStatus> {
    return (await this.json<{ status: PodStatus }>("inspectp", "-o", "json", pod)).status;
  }
}
