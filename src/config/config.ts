/**
 * The server's configuration: one TOML file, one schema (schema.ts), unknown keys rejected. In TypeScript the names are camelCase;
 * docs/configuration.md describes each.
 */
import { readFile } from "node:fs/promises";
import { errno, PodvmError } from "../host/errors.js";
import { parseDocument } from "./parse.js";

export { defaultConfigText } from "./default-text.js";

export const defaultConfigPath = "/etc/podvm/config.toml";

export interface RegistryConfig {
  /** Base URLs tried in order before the registry itself: http://127.0.0.1:5000. */
  mirrors: string[];
  /** Speak HTTP, not HTTPS, to the registry itself. */
  plainHttp: boolean;
  /** PEM file with the certificates to trust, beside the system's. */
  caFile?: string;
  /** Do not verify the certificate. A relaxation: logged at start, shown by `podvm check`. */
  insecureTls: boolean;
}

export interface Config {
  /** What must survive a reboot: images, disks, state documents. VM folders hold hard links into the image store: one file system. */
  stateDir: string;
  /** Sockets, pid files: on a tmpfs. */
  runDir: string;
  /** The CRI socket's path, at most 107 bytes. */
  socket: string;
  /** Permission bits of the socket: 0o600. */
  socketMode: number;
  /** Group name or number that owns the socket; absent: root's. */
  socketGroup?: string;
  /** Where setup puts runtime bundle, guest image and podvm-launch. */
  assetsDir: string;
  log: { level: "error" | "warn" | "info" | "debug"; format: "text" | "json" };
  network: {
    /** CNI configuration folder. */
    confDir: string;
    /** CNI plugin folders, in order. The bundle's cni/ comes after them. */
    binDirs: string[];
  };
  vm: {
    accelerator: "auto" | "kvm" | "tcg";
    /** Guest memory of a pod without a memory limit. */
    defaultMemoryMib: number;
    /** vCPUs of a pod without a CPU limit. */
    defaultVcpus: number;
    /** What a pod may be resized to while it runs, as far as the node has as many. */
    maxVcpus: number;
    /** Added to a pod's memory limit for the guest's kernel and agent. */
    guestReserveMib: number;
    /** Nominal size of a pod's writable disk; sparse. */
    scratchGib: number;
    /** First of the user ids that VMMs run as, one per VM. */
    uidBase: number;
    uidCount: number;
    /** From exec of the VMM to the agent's first answer. */
    startTimeoutSeconds: number;
  };
  image: {
    /** An image whose layers unpack to more is refused. */
    maxUnpackedGib: number;
    /** Docker config files searched for credentials when a pull brings none; those that do not exist are skipped. */
    dockerConfig: string[];
    /** Images that kubelet must not collect. */
    pinned: string[];
    /** By registry name as in references ("docker.io", "localhost:5000"), or "*" for all without an entry of their own. */
    registries: Record<string, RegistryConfig>;
  };
  policy: {
    /** Kubernetes namespaces (or their beginning and "*") whose pods may run without a VM. */
    hostNamespaces: string[];
    /** For containers whose client says nothing of seccomp (kubelet always does). */
    unsetSeccompProfile: "unconfined" | "runtime/default";
    /** Unix sockets of this node that pods may mount; each connection is forwarded into the guest. */
    sockets: string[];
    /** Whether a pod that asks for the host's PID namespace and nothing else of the host gets it, where allowed, or stays in its VM. */
    hostPid: "host" | "guest";
  };
}

/**
 * Configuration from TOML text; `source` names it in messages. Rejects with invalid_argument that lists every fault, each with the
 * key's path, what was wanted and what was found.
 */
export function parseConfig(text: string, source = "configuration"): Config {
  return parseDocument(text, source);
}

/**
 * Reads the file. Without a path the default one, whose absence means defaults; a path given must exist (not_found).
 */
export async function loadConfig(path?: string): Promise<Config> {
  const file = path ?? defaultConfigPath;
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (err) {
    if (errno(err) === "ENOENT" && path === undefined) return parseConfig("", "the defaults");
    const code = errno(err) === "ENOENT" ? "not_found" : "failed_precondition";
    throw new PodvmError(
      code,
      `configuration file: wanted a readable file at ${file}, found ${errno(err) ?? String(err)}; ` +
        "write one with `podvm config init`, or give another path with --config",
      { cause: err },
    );
  }
  return parseConfig(text, file);
}
