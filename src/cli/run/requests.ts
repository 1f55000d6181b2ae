/** The CRI requests of `podvm run`. */
import { randomBytes } from "node:crypto";
import {
  type ContainerConfig,
  type LinuxContainerResources,
  type PodSandboxConfig,
  Protocol,
  Signal,
} from "../../gen/runtime/v1/api.js";
import type { RunOptions } from "../commands/run.js";

/** Marks pods that this command made: its value is the pod's uid. */
export const runLabel = "podvm.run";
export const logFile = "container.log";

const protocols = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP };

export function podConfig(options: RunOptions, logDirectory: string): PodSandboxConfig {
  const uid = randomBytes(16).toString("hex");
  const name = options.name ?? `run-${uid.slice(0, 8)}`;
  const resources = resourcesOf(options);
  return {
    metadata: { name, uid, namespace: "default", attempt: 0 },
    hostname: name,
    logDirectory,
    portMappings: options.publish.map(({ protocol, ...ports }) => ({ ...ports, protocol: protocols[protocol] })),
    labels: { [runLabel]: uid },
    annotations: {},
    linux: { cgroupParent: "", sysctls: {}, ...(resources ? { resources } : {}) },
  };
}

/** `imageRef` is what the pull answered: the very image, whatever its name means by now. */
export function containerConfig(
  image: string,
  imageRef: string,
  command: string[],
  options: RunOptions,
): ContainerConfig {
  const resources = resourcesOf(options);
  return {
    metadata: { name: "main", attempt: 0 },
    image: {
      image: imageRef,
      userSpecifiedImage: image,
      annotations: {},
      runtimeHandler: options.handler,
      imageRef: "",
    },
    command: options.entrypoint === undefined ? [] : [options.entrypoint],
    args: command,
    workingDir: options.workdir ?? "",
    envs: options.env.map(({ key, value }) => ({ key, value: Buffer.from(value) })),
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    logPath: logFile,
    stdin: false,
    stdinOnce: false,
    tty: false,
    ...(resources ? { linux: { resources } } : {}),
    CDIDevices: [],
    stopSignal: Signal.SIGNAL_RUNTIME_DEFAULT,
  };
}

/** cpu.cfs_period_us: kubelet's. */
const cpuPeriod = 100_000n;

/** Undefined where no limit was asked for. */
export function resourcesOf({
  memory,
  cpus,
}: Pick<RunOptions, "memory" | "cpus">): LinuxContainerResources | undefined {
  if (memory === undefined && cpus === undefined) return undefined;
  return {
    cpuPeriod: cpus === undefined ? 0n : cpuPeriod,
    cpuQuota: cpus === undefined ? 0n : BigInt(Math.round(cpus * Number(cpuPeriod))),
    cpuShares: cpus === undefined ? 0n : BigInt(Math.max(2, Math.round(cpus * 1024))),
    memoryLimitInBytes: memory ?? 0n,
    memorySwapLimitInBytes: memory ?? 0n,
    oomScoreAdj: 0n,
    cpusetCpus: "",
    cpusetMems: "",
    hugepageLimits: [],
    unified: {},
  };
}
