/** Pod and container configurations as crictl reads them from files: CRI's JSON with snake_case names. */
import { randomBytes } from "node:crypto";

export interface PodOptions {
  name?: string;
  namespace?: string;
  uid?: string;
  attempt?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  hostname?: string;
  portMappings?: { protocol?: number; container_port: number; host_port?: number; host_ip?: string }[];
  dns?: { servers?: string[]; searches?: string[]; options?: string[] };
  /** Merged into `linux`. */
  linux?: Record<string, unknown>;
}

export interface ContainerOptions {
  name?: string;
  attempt?: number;
  image?: string;
  command?: string[];
  args?: string[];
  envs?: Record<string, string>;
  workingDir?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  tty?: boolean;
  stdin?: boolean;
  mounts?: Record<string, unknown>[];
  linux?: Record<string, unknown>;
  stopSignal?: number;
}

/** The short name under which every test image server holds busybox. */
export const busybox = "docker.io/library/busybox:1.36";

export const random = (bytes = 4) => randomBytes(bytes).toString("hex");

export function podConfig(base: { logDir: string; cgroupParent: string }, options: PodOptions = {}) {
  const name = options.name ?? `pod-${random()}`;
  const uid = options.uid ?? random(8);
  return {
    metadata: { name, namespace: options.namespace ?? "default", uid, attempt: options.attempt ?? 0 },
    hostname: options.hostname ?? name,
    log_directory: `${base.logDir}/${uid}`,
    labels: options.labels ?? {},
    annotations: options.annotations ?? {},
    port_mappings: options.portMappings ?? [],
    ...(options.dns ? { dns_config: options.dns } : {}),
    linux: { cgroup_parent: base.cgroupParent, ...options.linux },
  };
}

export type PodConfig = ReturnType<typeof podConfig>;

export function containerConfig(options: ContainerOptions = {}) {
  const name = options.name ?? `c-${random()}`;
  const attempt = options.attempt ?? 0;
  return {
    metadata: { name, attempt },
    image: { image: options.image ?? busybox },
    command: options.command ?? ["sleep", "3600"],
    args: options.args ?? [],
    envs: Object.entries(options.envs ?? {}).map(([key, value]) => ({ key, value })),
    working_dir: options.workingDir ?? "",
    labels: options.labels ?? {},
    annotations: options.annotations ?? {},
    mounts: options.mounts ?? [],
    log_path: `${name}-${attempt}.log`,
    tty: options.tty ?? false,
    stdin: options.stdin ?? false,
    linux: options.linux ?? {},
    ...(options.stopSignal === undefined ? {} : { stop_signal: options.stopSignal }),
  };
}

export type ContainerConfig = ReturnType<typeof containerConfig>;
