import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { defaultConfigText, loadConfig, parseConfig } from "../../../src/config/config.js";
import { PodvmError } from "../../../src/host/errors.js";

function fault(text: string): string {
  try {
    parseConfig(text, "test.toml");
  } catch (err) {
    if (err instanceof PodvmError && err.code === "invalid_argument") return err.message;
    throw err;
  }
  throw new Error("no fault found");
}

test("an empty file means the defaults", (t) => {
  const config = parseConfig("");
  t.is(config.stateDir, "/var/lib/podvm");
  t.is(config.socket, "/run/podvm/podvm.sock");
  t.is(config.socketMode, 0o600);
  t.is(config.socketGroup, undefined);
  t.is(config.assetsDir, "/var/lib/podvm/assets");
  t.deepEqual(config.log, { level: "info", format: "text" });
  t.deepEqual(config.network, { confDir: "/etc/cni/net.d", binDirs: ["/opt/cni/bin"] });
  t.is(config.vm.accelerator, "auto");
  t.is(config.vm.uidBase, 2_000_000);
  t.deepEqual(config.policy.hostNamespaces, ["kube-system"]);
});

test("the commented file says the defaults, also with its keys uncommented", (t) => {
  t.deepEqual(parseConfig(defaultConfigText()), parseConfig(""));
  const active = defaultConfigText()
    .replace(/^#(?=[a-z_]+ = )/gm, "")
    .replace(/^#\[image\.registries[\s\S]*?(?=^\[policy\])/m, "")
    .replace(/^socket_group = .*$/m, "");
  t.deepEqual(parseConfig(active), parseConfig(""));
});

test("every key of the file reaches the configuration", (t) => {
  const config = parseConfig(`
state_dir = "/s"
run_dir = "/r"
socket_mode = "0660"
socket_group = "podvm"
[log]
level = "debug"
format = "json"
[network]
conf_dir = "/c"
bin_dirs = ["/b1", "/b2"]
[vm]
accelerator = "tcg"
default_memory_mib = 256
default_vcpus = 2
max_vcpus = 4
guest_reserve_mib = 100
scratch_gib = 3
uid_base = 3000000
uid_count = 10
start_timeout_seconds = 5
[image]
max_unpacked_gib = 1
docker_config = []
pinned = ["registry.example.com/infra/agent:1"]
[image.registries."*"]
mirrors = ["http://127.0.0.1:5000/", "https://m.example.com/prefix"]
[image.registries."localhost:5000"]
plain_http = true
[image.registries."r.example.com"]
ca_file = "/ca.pem"
insecure_tls = true
[policy]
host_namespaces = ["a", "b-*"]
host_pid = "guest"
unset_seccomp_profile = "runtime/default"
sockets = ["/run/a.sock"]
`);
  t.deepEqual(config, {
    stateDir: "/s",
    runDir: "/r",
    socket: "/r/podvm.sock",
    socketMode: 0o660,
    socketGroup: "podvm",
    assetsDir: "/s/assets",
    log: { level: "debug", format: "json" },
    network: { confDir: "/c", binDirs: ["/b1", "/b2"] },
    vm: {
      accelerator: "tcg",
      defaultMemoryMib: 256,
      defaultVcpus: 2,
      maxVcpus: 4,
      guestReserveMib: 100,
      scratchGib: 3,
      uidBase: 3_000_000,
      uidCount: 10,
      startTimeoutSeconds: 5,
    },
    image: {
      maxUnpackedGib: 1,
      dockerConfig: [],
      pinned: ["registry.example.com/infra/agent:1"],
      registries: {
        "*": {
          mirrors: ["http://127.0.0.1:5000", "https://m.example.com/prefix"],
          plainHttp: false,
          insecureTls: false,
        },
        "localhost:5000": { mirrors: [], plainHttp: true, insecureTls: false },
        "r.example.com": { mirrors: [], plainHttp: false, insecureTls: true, caFile: "/ca.pem" },
      },
    },
    policy: {
      hostNamespaces: ["a", "b-*"],
      hostPid: "guest",
      unsetSeccompProfile: "runtime/default",
      sockets: ["/run/a.sock"],
    },
  });
});

test("an unknown key is named with its path and the nearest known one", (t) => {
  t.regex(fault("[vm]\nacelerator = 'kvm'"), /vm\.acelerator: wanted a known key.*did you mean vm\.accelerator\?/);
  t.regex(fault("stateDir = '/x'"), /did you mean state_dir\?/);
  t.regex(fault("scratch_gib = 3"), /did you mean vm\.scratch_gib\?/, "a key in the wrong table");
  t.regex(
    fault("[image.registries.'localhost:5000']\nplain-http = true"),
    /image\.registries\."localhost:5000"\.plain-http: .*did you mean image\.registries\."localhost:5000"\.plain_http\?/,
  );
  t.regex(fault("completely_different = 1"), /remove it/);
  t.regex(fault("constructor = 1"), /constructor: wanted a known key/, "not fooled by what every object has");
});

test("all faults are listed at once", (t) => {
  const message = fault("typo_dir = 1\nsocket = 'relative'\n[vm]\ndefault_vcpus = 0\n[log]\nlevel = 'loud'");
  t.regex(message, /^test\.toml: 4 faults to correct:/);
  for (const part of [
    "typo_dir",
    "socket: wanted an absolute path",
    "vm.default_vcpus: wanted an integer from 1",
    '"loud"',
  ]) {
    t.true(message.includes(part), part);
  }
});

for (const [what, text, expected] of [
  ["a text for a number", "[vm]\ndefault_vcpus = 'two'", 'wanted an integer from 1 to 240, found "two"'],
  ["a fraction", "[vm]\ndefault_vcpus = 1.5", "found 1.5"],
  ["a number for a table", "log = 3", "wanted a table: [log], found 3"],
  ["a text for a list", "[network]\nbin_dirs = '/x'", 'wanted a list of absolute paths, found "/x"'],
  ["a path with ..", "state_dir = '/a/../b'", "wanted an absolute path without . or .. parts"],
  ["a socket path that no socket can have", `socket = '/${"a".repeat(120)}'`, "at most 107 bytes"],
  [
    "a run_dir too long for its sockets",
    `run_dir = '/${"a".repeat(100)}'`,
    "run_dir: wanted a path of at most 64 bytes",
  ],
  ["a mode that is no octal text", "socket_mode = '0999'", "permission bits in octal"],
  ["a mirror that is no URL", "[image.registries.'*']\nmirrors = ['ftp://x']", "https://host[:port][/prefix]"],
  ["a mirror with credentials", "[image.registries.'*']\nmirrors = ['https://u:p@x']", "without user"],
  ["a registry that is no name", "[image.registries.'https://x']\nplain_http = true", "a registry name"],
  ["plain HTTP with TLS settings", "[image.registries.x]\nplain_http = true\ninsecure_tls = true", "found both"],
  ["uids beyond 32 bits", "[vm]\nuid_base = 4294000000\nuid_count = 1048576", "vm.uid_base + vm.uid_count"],
  ["one folder for two", "state_dir = '/x'\nrun_dir = '/x'", "found the same as state_dir"],
] as const) {
  test(`refused: ${what}`, (t) => t.true(fault(text).includes(expected), fault(text)));
}

test("a mistake in the TOML is shown with its line", (t) => {
  const message = fault('state_dir = "/x"\n[vm\n');
  t.regex(message, /^test\.toml:2:\d+: wanted TOML, found a mistake/);
  t.true(message.includes("[vm"));
});

test("a file that was named must exist; one that is there is read", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-config-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = join(folder, "config.toml");
  const err = await t.throwsAsync(loadConfig(path), { instanceOf: PodvmError });
  t.is(err.code, "not_found");
  t.true(err.message.includes(path));
  await writeFile(path, "[log]\nlevel = 'warn'\n");
  t.is((await loadConfig(path)).log.level, "warn");
});
