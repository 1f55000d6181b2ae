import { parse as parseToml, TomlError } from "smol-toml";
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import type { Config, RegistryConfig } from "./config.js";
import { type FileConfig, fileSchema } from "./schema.js";
import { tomlPath, unknownKeys } from "./unknown.js";

const maxFileBytes = 1 << 20;

/** TOML text → Config; see parseConfig. */
export function parseDocument(text: string, source: string): Config {
  const document = toDocument(text, source);
  const faults = unknownKeys(fileSchema, document).map(
    ({ path, suggestion }) =>
      `${tomlPath(path)}: wanted a known key, found "${path.at(-1)?.slice(0, 80)}"; ` +
      (suggestion ? `did you mean ${suggestion}?` : "remove it (docs/configuration.md lists all keys)"),
  );
  const result = v.safeParse(fileSchema, document);
  if (!result.success) faults.push(...result.issues.map(describe));
  else faults.push(...contradictions(result.output));
  if (faults.length > 0 || !result.success) {
    const list = faults.slice(0, 20).map((fault) => `\n  ${fault}`);
    throw new PodvmError("invalid_argument", `${source}: ${count(faults.length)} to correct:${list.join("")}`);
  }
  return toConfig(result.output);
}

const count = (n: number) => (n === 1 ? "one fault" : `${n} faults`);

function toDocument(text: string, source: string): Record<string, unknown> {
  if (Buffer.byteLength(text) > maxFileBytes) {
    throw new PodvmError(
      "invalid_argument",
      `${source}: wanted at most ${maxFileBytes} bytes, found more; is it the right file?`,
    );
  }
  try {
    return parseToml(text);
  } catch (err) {
    if (!(err instanceof TomlError)) throw err;
    const reason = err.message.split("\n")[0]?.replace(/^Invalid TOML document: /, "");
    throw new PodvmError(
      "invalid_argument",
      `${source}:${err.line}:${err.column}: wanted TOML, found a mistake: ${reason}; correct that line\n${err.codeblock}`,
      { cause: err },
    );
  }
}

function describe(issue: v.BaseIssue<unknown>): string {
  const path = (issue.path ?? []).map((item) => item.key as string | number);
  return `${tomlPath(path)}: wanted ${issue.message}, found ${shown(issue.input)}`;
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (value instanceof Date) return "a date";
  if (typeof value === "object" && value !== null) return "a table";
  const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

/** What no single key's check can see. */
function contradictions(file: FileConfig): string[] {
  const faults: string[] = [];
  const lastUid = file.vm.uid_base + file.vm.uid_count - 1;
  if (lastUid > 4294967293) {
    faults.push(
      `vm.uid_count: wanted vm.uid_base + vm.uid_count at most 4294967294 (uids are 32 bits), found ${lastUid + 1}; lower one of them`,
    );
  }
  if (file.state_dir === file.run_dir) {
    faults.push(
      `run_dir: wanted a folder of its own on a tmpfs, found the same as state_dir (${file.state_dir}); sockets do not belong with what survives a reboot`,
    );
  }
  for (const [name, registry] of Object.entries(file.image.registries)) {
    if (registry.plain_http && (registry.insecure_tls || registry.ca_file)) {
      faults.push(
        `${tomlPath(["image", "registries", name])}: wanted plain_http or TLS settings, found both; remove ca_file and insecure_tls, or plain_http`,
      );
    }
  }
  return faults;
}

function toConfig(file: FileConfig): Config {
  const registries: Record<string, RegistryConfig> = {};
  for (const [name, entry] of Object.entries(file.image.registries)) {
    registries[name] = {
      mirrors: entry.mirrors.map((url) => url.replace(/\/+$/, "")),
      plainHttp: entry.plain_http,
      insecureTls: entry.insecure_tls,
      ...(entry.ca_file === undefined ? {} : { caFile: entry.ca_file }),
    };
  }
  return {
    stateDir: file.state_dir,
    runDir: file.run_dir,
    socket: file.socket ?? `${file.run_dir}/podvm.sock`,
    socketMode: Number.parseInt(file.socket_mode, 8),
    ...(file.socket_group === undefined ? {} : { socketGroup: file.socket_group }),
    assetsDir: file.assets_dir ?? `${file.state_dir}/assets`,
    log: file.log,
    network: { confDir: file.network.conf_dir, binDirs: file.network.bin_dirs },
    vm: {
      accelerator: file.vm.accelerator,
      defaultMemoryMib: file.vm.default_memory_mib,
      defaultVcpus: file.vm.default_vcpus,
      maxVcpus: file.vm.max_vcpus,
      guestReserveMib: file.vm.guest_reserve_mib,
      scratchGib: file.vm.scratch_gib,
      uidBase: file.vm.uid_base,
      uidCount: file.vm.uid_count,
      startTimeoutSeconds: file.vm.start_timeout_seconds,
    },
    image: {
      maxUnpackedGib: file.image.max_unpacked_gib,
      dockerConfig: file.image.docker_config,
      pinned: file.image.pinned,
      registries,
    },
    policy: {
      hostNamespaces: file.policy.host_namespaces,
      hostPid: file.policy.host_pid,
      unsetSeccompProfile: file.policy.unset_seccomp_profile,
      sockets: file.policy.sockets,
    },
  };
}
