/**
 * The runtime bundle as setup built it: every program runs from its place with an empty environment. And its builder, in assets
 * folders of the tests' own, filled from the cache of downloaded packages where there is one.
 */
import { execFileSync, spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { readBundleManifest } from "../../src/bundle/manifest.js";
import { run } from "../../src/host/run.js";
import { projectRoot } from "../support/tools.js";

const assetsDir = process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets";
const bundle = realpathSync(`${assetsDir}/bundle/current`);
const bare = { env: {}, deadlineMs: 60_000 };

test("every program runs from its path with an empty environment, in the version that the manifest names", async (t) => {
  const { tools } = await readBundleManifest(bundle);
  const cases: [string, string, string | undefined][] = [
    ["qemu-system-x86_64", "--version", tools.qemu],
    ["qemu-img", "--version", tools.qemu],
    ["mkfs.erofs", "--version", tools["erofs-utils"]],
    ["dump.erofs", "--version", tools["erofs-utils"]],
    ["fsck.erofs", "--version", tools["erofs-utils"]],
    ["mkfs.ext4", "-V", tools.e2fsprogs],
    ["e2fsck", "-V", tools.e2fsprogs],
    ["debugfs", "-V", tools.e2fsprogs],
    ["zstd", "--version", tools.zstd],
    ["crun", "--version", tools.crun],
    ["ip", "-V", tools.iproute2],
    ["tc", "-V", tools.iproute2],
    ["nft", "--version", tools.nftables],
    ["iptables", "--version", tools.iptables],
    ["ip6tables", "--version", tools.iptables],
    ["iptables-save", "--version", tools.iptables],
  ];
  for (const [program, argument, version] of cases) {
    const { stdout, stderr } = await run([`${bundle}/bin/${program}`, argument], bare);
    t.true(`${stdout}${stderr}`.includes(version ?? "(no version in the manifest)"), `${program}: ${stdout}${stderr}`);
  }
  t.true(Number(tools["erofs-utils"]?.split(".")[1]) >= 8, "mkfs.erofs 1.8 reads tars");
  t.regex(tools.kernel ?? "", /^6\.(1[2-9]|[2-9]\d)\.|^[7-9]\./);
});

test("the CNI plugins answer with the versions of the protocol", async (t) => {
  for (const plugin of [
    "bridge",
    "host-local",
    "portmap",
    "firewall",
    "loopback",
    "bandwidth",
    "ptp",
    "static",
    "tuning",
  ]) {
    const { stdout } = await run([`${bundle}/cni/${plugin}`], { env: { CNI_COMMAND: "VERSION" }, deadlineMs: 30_000 });
    t.true(JSON.parse(stdout).supportedVersions.includes("1.0.0"), plugin);
  }
});

test("iptables finds its extensions", async (t) => {
  const name = `podvm-t${process.pid}`;
  await run([`${bundle}/bin/ip`, "netns", "add", name], bare);
  t.teardown(() => run([`${bundle}/bin/ip`, "netns", "del", name], bare));
  const inside = (...argv: string[]) => run([`${bundle}/bin/ip`, "netns", "exec", name, ...argv], bare);
  const iptables = `${bundle}/bin/iptables`;
  await inside(iptables, "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "podvm", "-j", "MASQUERADE");
  await inside(iptables, "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT");
  const { stdout } = await inside(`${bundle}/bin/iptables-save`);
  t.regex(stdout, /-A POSTROUTING -m comment --comment podvm -j MASQUERADE/);
});

test("file systems are made and checked", async (t) => {
  const dir = await folder(t);
  mkdirSync(`${dir}/root`);
  writeFileSync(`${dir}/root/hello`, "hello\n");
  await run([`${bundle}/bin/mkfs.erofs`, `${dir}/erofs`, `${dir}/root`], bare);
  await run([`${bundle}/bin/fsck.erofs`, `${dir}/erofs`], bare);
  const env = { MKE2FS_CONFIG: `${bundle}/share/mke2fs.conf` };
  await run([`${bundle}/bin/mkfs.ext4`, "-q", "-F", "-d", `${dir}/root`, `${dir}/ext4`, "16M"], { env });
  await run([`${bundle}/bin/e2fsck`, "-f", "-n", `${dir}/ext4`], bare);
  const { stdout } = await run([`${bundle}/bin/debugfs`, "-R", "cat /hello", `${dir}/ext4`], bare);
  t.is(stdout, "hello\n");
});

test("QEMU has the devices and the firmware that pods use", async (t) => {
  const devices = (await run([`${bundle}/bin/qemu-system-x86_64`, "-device", "help"], bare)).stdout;
  for (const device of [
    "virtio-blk-pci",
    "virtio-scsi-pci",
    "virtserialport",
    "virtio-net-pci",
    "virtio-balloon-pci",
    "vmgenid",
  ]) {
    t.true(devices.includes(`"${device}"`), device);
  }
  const formats = (await run([`${bundle}/bin/qemu-img`, "--help"], bare)).stdout;
  t.regex(formats, /formats:.* raw .*vmdk/s);
});

test("the folder is root's, read-only, named by its digest; each package has its licence and its pin", async (t) => {
  const manifest = await readBundleManifest(bundle);
  t.is(basename(bundle), manifest.digest);
  for (const path of readdirSync(bundle, { recursive: true, encoding: "utf8" })) {
    const at = lstatSync(join(bundle, path));
    if (at.isSymbolicLink()) continue;
    t.is(at.uid + at.gid, 0, path);
    t.is(at.mode & 0o6222, 0, path);
    t.is(at.mode & 0o444, 0o444, path);
  }
  const pins = readFileSync(join(projectRoot, "bundle/pins.txt"), "utf8").split("\n");
  t.true(manifest.packages.length > 40);
  for (const { name, version } of manifest.packages) {
    t.true(readFileSync(`${bundle}/licenses/${name}`, "utf8").length > 100, name);
    t.true(pins.includes(`${name}=${version}`), `${name}=${version}`);
  }
});

test("a build that is killed leaves nothing to see; two at once then make one bundle", async (t) => {
  const assets = await folder(t, { cache: true });
  const recipe = join(projectRoot, "bundle/build.sh");
  const killed = builder(recipe, assets);
  await killed.says(/unpacking/);
  process.kill(-killed.pid, "SIGKILL");
  await killed.ended;
  t.deepEqual(
    readdirSync(`${assets}/bundle`).filter((name) => !name.startsWith(".")),
    [],
  );

  const both = [builder(recipe, assets), builder(recipe, assets)];
  t.deepEqual(await Promise.all(both.map((b) => b.ended)), [0, 0], both.map((b) => b.output()).join("\n"));
  t.is(both.filter((b) => /done: /.test(b.output())).length, 1, "one built, the other found it");
  const names = readdirSync(`${assets}/bundle`).sort();
  t.deepEqual(
    names.filter((name) => !/^[0-9a-f]{16}$/.test(name)),
    [".lock", "current"],
  );
  t.is(names.length, 3, names.join(" "));
  const made = realpathSync(`${assets}/bundle/current`);
  t.is((await readBundleManifest(made)).inputs, (await readBundleManifest(bundle)).inputs, "same recipe, same inputs");
  t.regex((await run([`${made}/bin/qemu-system-x86_64`, "--version"], bare)).stdout, /QEMU/);

  const again = builder(recipe, assets);
  t.is(await again.ended, 0);
  t.regex(again.output(), /is there/);
});

test("a pinned version that is gone from the mirror: the newest are taken, and said; refused where that is asked for", async (t) => {
  const assets = await folder(t, { cache: true });
  const recipe = await copyOfRecipe(t);
  const pins = readFileSync(`${recipe}/pins.txt`, "utf8").replace(/^zstd=.*$/m, "zstd=0.0.1-1");
  writeFileSync(`${recipe}/pins.txt`, pins);
  const gone = /vanished from .* zstd=0\.0\.1-1 .*make bundle-update/;

  const strict = builder(`${recipe}/build.sh`, assets, [], { PODVM_PINS: "strict" });
  t.is(await strict.ended, 1);
  t.regex(strict.output(), gone);
  t.deepEqual(readdirSync(`${assets}/bundle`), [".lock"]);

  const build = builder(`${recipe}/build.sh`, assets);
  t.is(await build.ended, 0, build.output());
  t.regex(build.output(), gone);
  const made = await readBundleManifest(realpathSync(`${assets}/bundle/current`));
  t.false(made.pinned);
  t.not(made.packages.find(({ name }) => name === "zstd")?.version, "0.0.1-1");

  const again = builder(`${recipe}/build.sh`, assets);
  t.is(await again.ended, 0);
  t.regex(again.output(), /is there/);
});

test("no root, no space: said at once", async (t) => {
  const recipe = await copyOfRecipe(t);
  const small = await folder(t);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m", "podvm-test", small]);
  t.teardown(() => execFileSync("umount", [small]));
  const full = builder(`${recipe}/build.sh`, small);
  t.is(await full.ended, 1);
  t.regex(full.output(), /needs 1200 MiB free in .*, found 8 MiB/);

  const user = builder("setpriv", small, ["--reuid=65534", "--regid=65534", "--clear-groups", `${recipe}/build.sh`]);
  t.is(await user.ended, 1);
  t.regex(user.output(), /must run as root .* found uid 65534/);
});

/** A folder of the test's own that others may enter; with `cache`, what was downloaded before is in it. */
async function folder(t: ExecutionContext, options: { cache?: boolean } = {}): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "podvm-bundle-"));
  execFileSync("chmod", ["0755", path]);
  t.teardown(() => rm(path, { recursive: true, force: true }));
  const archives = `${assetsDir}/cache/apt/archives`;
  if (options.cache && existsSync(archives)) cpSync(archives, `${path}/cache/apt/archives`, { recursive: true });
  return path;
}

async function copyOfRecipe(t: ExecutionContext): Promise<string> {
  const path = await folder(t);
  cpSync(join(projectRoot, "bundle"), path, { recursive: true });
  return path;
}

function builder(program: string, assets: string, args: string[] = [], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(program, args, {
    env: { ...process.env, PODVM_ASSETS: assets, ...env },
    stdio: ["ignore", "ignore", "pipe"],
    detached: true, // a process group of its own, to be killed whole
  });
  let output = "";
  const listeners = new Set<() => void>();
  child.stderr.on("data", (chunk: Buffer) => {
    output += chunk;
    for (const listener of listeners) listener();
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  return {
    pid: child.pid ?? 0,
    ended,
    output: () => output,
    /** Resolves when the output matches; rejects when it ends without. */
    says: (pattern: RegExp) =>
      new Promise<void>((resolve, reject) => {
        const look = () => pattern.test(output) && resolve();
        listeners.add(look);
        look();
        ended.then(() => reject(new Error(`ended without saying ${pattern}: ${output}`)), reject);
      }),
  };
}
