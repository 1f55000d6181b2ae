import { type DeepPartial, type Mount, type Seccomp, Spec } from "../gen/oci/v1/spec.js";
import { PodvmError } from "../host/errors.js";
import type { ImageRunConfig } from "../image/image.js";
import { capabilitiesOf, unknownCapability } from "./capabilities.js";
import type { ContainerConfig, PodConfig, Resources } from "./types.js";

const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * The OCI runtime specification of a container, without what the agent fills in: root path, user, namespaces (they depend on the pod's, which
 * only the guest has) and the sources of the "podvm:" mounts.
 */
export function buildSpec(
  pod: PodConfig,
  config: ContainerConfig,
  image: ImageRunConfig,
  seccomp?: Seccomp,
  volumes: readonly Mount[] = [],
): Spec {
  const { security } = config;
  const unknown = unknownCapability(security);
  if (unknown)
    throw new PodvmError("invalid_argument", `security_context.capabilities: there is no capability ${unknown}`);
  const { granted, ambient } = capabilitiesOf(security);
  return Spec.fromPartial({
    ociVersion: "1.2.0",
    process: {
      terminal: config.tty,
      args: processArgs(config, image),
      env: processEnv(pod, config, image),
      cwd: config.workingDir || image.workingDir || "/",
      capabilities: { bounding: granted, effective: granted, permitted: granted, inheritable: ambient, ambient },
      noNewPrivileges: security.noNewPrivileges && !security.privileged,
      oomScoreAdj: config.resources.oomScoreAdj ?? 0,
      apparmorProfile: security.apparmor.type === "localhost" ? security.apparmor.profile : undefined,
    },
    root: { path: "", readonly: security.readonlyRootfs },
    mounts: ordered(mounts(security.privileged), volumes),
    annotations: {},
    linux: {
      // Its own cgroup is the root of what it sees. Network, IPC and UTS are the pod's, that is the guest's own.
      namespaces: [{ type: "cgroup" }],
      resources: { ...ociResources(config.resources), devices: deviceRules(security.privileged) },
      seccomp,
      maskedPaths: security.privileged ? [] : security.maskedPaths,
      readonlyPaths: security.privileged ? [] : security.readonlyPaths,
    },
  });
}

/** CRI: command replaces the image's entry point (and then its cmd too); args replace its cmd. */
function processArgs(config: ContainerConfig, image: ImageRunConfig): string[] {
  const words =
    config.command.length > 0
      ? [...config.command, ...config.args]
      : [...image.entrypoint, ...(config.args.length > 0 ? config.args : image.cmd)];
  if (words.length === 0) {
    throw new PodvmError(
      "invalid_argument",
      `${config.image} has neither entry point nor cmd: give the container a command`,
    );
  }
  return words;
}

/** The image's variables, overlaid by the container's; HOSTNAME and TERM as other runtimes set them. */
function processEnv(pod: PodConfig, config: ContainerConfig, image: ImageRunConfig): string[] {
  const variables = new Map<string, string>();
  const put = (line: string) => variables.set(line.split("=", 1)[0] ?? line, line);
  put(DEFAULT_PATH);
  if (config.tty) put("TERM=xterm");
  if (pod.hostname) put(`HOSTNAME=${pod.hostname}`);
  for (const line of image.env) put(line);
  for (const { key, value } of config.env) put(`${key}=${value}`);
  return [...variables.values()];
}

function mounts(privileged: boolean) {
  const access = privileged ? "rw" : "ro";
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", access],
    },
    { destination: "/dev/shm", type: "bind", source: "podvm:shm", options: ["rbind", "rw"] },
    { destination: "/etc/hosts", type: "bind", source: "podvm:hosts", options: ["rbind", "rw"] },
    { destination: "/etc/hostname", type: "bind", source: "podvm:hostname", options: ["rbind", "rw"] },
    { destination: "/etc/resolv.conf", type: "bind", source: "podvm:resolv.conf", options: ["rbind", "rw"] },
  ];
}

/** What the client mounts takes the place of what every container has there. A mount comes before those below it. */
function ordered(own: readonly DeepPartial<Mount>[], volumes: readonly Mount[]): DeepPartial<Mount>[] {
  const taken = new Set(volumes.map(({ destination }) => destination));
  const depth = ({ destination = "" }: DeepPartial<Mount>) => destination.split("/").length;
  return [...own.filter(({ destination }) => !taken.has(destination ?? "")), ...volumes].sort(
    (a, b) => depth(a) - depth(b),
  );
}

/**
 * Device cgroup: deny by default (crun adds what every container has: null, zero, tty …). A guest's disks hold the image and the
 * writable layers of the other containers of its pod: only a privileged container may open them.
 */
function deviceRules(privileged: boolean) {
  return [{ allow: privileged, access: "rwm" }];
}

export function ociResources(resources: Resources) {
  return {
    memory:
      resources.memoryLimit || resources.memorySwapLimit
        ? { limit: big(resources.memoryLimit), swap: big(resources.memorySwapLimit) }
        : undefined,
    cpu: {
      shares: big(resources.cpuShares),
      quota: big(resources.cpuQuota),
      period: big(resources.cpuPeriod),
      cpus: resources.cpusetCpus,
      mems: resources.cpusetMems,
    },
    hugepageLimits: (resources.hugepages ?? []).map(({ pageSize, limit }) => ({ pageSize, limit: BigInt(limit) })),
    unified: resources.unified ?? {},
  };
}

function big(value: number | undefined): bigint | undefined {
  return value === undefined ? undefined : BigInt(value);
}
