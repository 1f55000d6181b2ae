/**
 * The one schema of the configuration file, in the file's own (snake_case) names. Every check carries a message of what is wanted;
 * parse.ts adds where and what was found; unknown.ts rejects the keys that are not here.
 */
import * as v from "valibot";

const text = (wanted: string) => v.string(wanted);

function integer(min: number, max: number, unit = "") {
  const wanted = `an integer from ${min} to ${max}${unit && ` (${unit})`}`;
  return v.pipe(v.number(wanted), v.integer(wanted), v.minValue(min, wanted), v.maxValue(max, wanted));
}

function oneOf<const T extends string>(...names: T[]) {
  return v.picklist(names, `one of ${names.map((n) => `"${n}"`).join(", ")}`);
}

function matching(pattern: RegExp, wanted: string) {
  return v.pipe(text(wanted), v.regex(pattern, wanted));
}

function path(maxBytes = 4095) {
  const wanted = "an absolute path without . or .. parts or a / at its end";
  const short = `a path of at most ${maxBytes} bytes`;
  return v.pipe(
    text(wanted),
    v.check((p) => /^(\/[^/\0]+)+$/.test(p) && !p.split("/").some((part) => part === "." || part === ".."), wanted),
    v.check((p) => Buffer.byteLength(p) <= maxBytes, short),
  );
}

function list<T extends v.GenericSchema>(item: T, what: string) {
  return v.pipe(v.array(item, `a list of ${what}`), v.maxLength(256, `a list of at most 256 ${what}`));
}

const httpUrl = v.pipe(
  text("a URL: https://host[:port][/prefix]"),
  v.check((value) => {
    if (!URL.canParse(value)) return false;
    const url = new URL(value);
    return /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.search && !url.hash;
  }, "a URL: https://host[:port][/prefix], http or https, without user, query or fragment"),
);

const registry = v.object(
  {
    mirrors: v.optional(list(httpUrl, "URLs"), []),
    plain_http: v.optional(v.boolean("true or false"), false),
    ca_file: v.optional(path()),
    insecure_tls: v.optional(v.boolean("true or false"), false),
  },
  'a table: [image.registries."NAME"]',
);

const registryName = matching(
  /^(\*|[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?)$/,
  'a registry name as references have it ("docker.io", "localhost:5000"), or "*"',
);

const log = v.object(
  {
    level: v.optional(oneOf("error", "warn", "info", "debug"), "info"),
    format: v.optional(oneOf("text", "json"), "text"),
  },
  "a table: [log]",
);

const network = v.object(
  {
    conf_dir: v.optional(path(), "/etc/cni/net.d"),
    bin_dirs: v.optional(list(path(), "absolute paths"), ["/opt/cni/bin"]),
  },
  "a table: [network]",
);

const vm = v.object(
  {
    accelerator: v.optional(oneOf("auto", "kvm", "tcg"), "auto"),
    default_memory_mib: v.optional(integer(128, 1 << 20, "MiB"), 512),
    default_vcpus: v.optional(integer(1, 240), 1),
    max_vcpus: v.optional(integer(1, 240), 32),
    guest_reserve_mib: v.optional(integer(64, 16384, "MiB"), 128),
    scratch_gib: v.optional(integer(1, 16384, "GiB"), 10),
    uid_base: v.optional(integer(65536, 4294000000), 2000000),
    uid_count: v.optional(integer(1, 1 << 20), 65536),
    start_timeout_seconds: v.optional(integer(1, 3600, "seconds"), 60),
  },
  "a table: [vm]",
);

const image = v.object(
  {
    max_unpacked_gib: v.optional(integer(1, 16384, "GiB"), 32),
    docker_config: v.optional(list(path(), "absolute paths"), [
      "/var/lib/kubelet/config.json",
      "/root/.docker/config.json",
    ]),
    pinned: v.optional(
      list(
        matching(/^[a-z0-9][A-Za-z0-9._:/@-]{0,511}$/, 'an image reference ("registry.k8s.io/pause:3.10")'),
        "image references",
      ),
      [],
    ),
    registries: v.optional(v.record(registryName, registry, 'tables: [image.registries."NAME"]'), {}),
  },
  "a table: [image]",
);

const policy = v.object(
  {
    host_namespaces: v.optional(
      list(
        matching(
          /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|[a-z0-9][a-z0-9-]{0,61}\*)$/,
          'the name of a Kubernetes namespace, or its beginning and "*"',
        ),
        "namespace names",
      ),
      ["kube-system"],
    ),
    unset_seccomp_profile: v.optional(oneOf("unconfined", "runtime/default"), "unconfined"),
    sockets: v.optional(list(path(), "absolute paths"), []),
    host_pid: v.optional(oneOf("host", "guest"), "host"),
  },
  "a table: [policy]",
);

/** A unix socket's path holds 107 bytes (sun_path, unix(7)). */
const maxSocketPath = 107;
/** What leaves room for a VM's sockets: <run_dir>/vms/<20 digits>/agent.sock. */
const maxRunDir = 64;

export const fileSchema = v.object({
  state_dir: v.optional(path(), "/var/lib/podvm"),
  run_dir: v.optional(path(maxRunDir), "/run/podvm"),
  socket: v.optional(path(maxSocketPath)),
  socket_mode: v.optional(matching(/^0?[0-7]{3}$/, 'permission bits in octal, as text: "0600"'), "0600"),
  socket_group: v.optional(matching(/^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})$/, "a group's name or number, as text")),
  assets_dir: v.optional(path()),
  log: v.optional(log, {}),
  network: v.optional(network, {}),
  vm: v.optional(vm, {}),
  image: v.optional(image, {}),
  policy: v.optional(policy, {}),
});

export type FileConfig = v.InferOutput<typeof fileSchema>;
