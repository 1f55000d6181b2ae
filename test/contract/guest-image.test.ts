/** The guest image: built by its recipe with a first process of the tests' own, and booted by the bundle's QEMU. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { readBundleManifest, readGuestManifest } from "../../src/bundle/manifest.js";
import { messageOf } from "../../src/host/errors.js";
import { run } from "../../src/host/run.js";
import { projectRoot } from "../support/tools.js";

const bundle = realpathSync(`${process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets"}/bundle/current`);
let work: string;
let firstProcess: string;

test.before(async () => {
  work = await mkdtemp(join(tmpdir(), "podvm-guest-"));
  firstProcess = join(work, "first-process");
  const source = join(projectRoot, "test/contract/fixtures/first-process.rs");
  execFileSync("rustc", [
    "-Copt-level=s",
    "-Cstrip=symbols",
    "--edition=2021",
    "--target=x86_64-unknown-linux-musl",
    "-o",
    firstProcess,
    source,
  ]);
});
test.after.always(() => rm(work, { recursive: true, force: true }));

test("two builds in two places are the same to the byte", async (t) => {
  const [one, two] = await Promise.all([built(firstProcess), built(firstProcess)]);
  t.not(one, two);
  t.is(basename(one), basename(two), "the digest is that of the inputs");
  for (const file of ["vmlinux", "initrd", "manifest.json"]) {
    t.true(readFileSync(`${one}/${file}`).equals(readFileSync(`${two}/${file}`)), file);
  }
  writeFileSync(join(work, "other"), Buffer.concat([readFileSync(firstProcess), Buffer.from("x")]));
  t.not(basename(await built(join(work, "other"))), basename(one), "another agent is another image");
});

test("it boots by PVH to its first process, which can load every module and run crun", async (t) => {
  const image = await built(firstProcess);
  const manifest = await readGuestManifest(image);
  const said = await booted(t, image, `${manifest.cmdline} 8250.nr_uarts=1 console=ttyS0`);
  const lines = said.split(/\r?\n/);
  t.true(lines.includes("end"), said);
  t.true(lines.includes(`kernel ${manifest.kernel}`), said);
  t.true(lines.includes(`crun version ${manifest.crun}`), said);
  t.true(lines.some((line) => line.startsWith(`cmdline ${manifest.cmdline}`)));
  t.deepEqual(
    lines.filter((line) => line.startsWith("module ")),
    manifest.modules.map((name) => `module ${name}.ko 0`),
  );
  for (const name of ["erofs", "overlay", "ext4", "fuse", "tmpfs", "cgroup2", "devtmpfs"]) {
    t.true(lines.includes(`filesystem ${name}`), `${name} in: ${said}`);
  }
  for (const name of ["virtio_blk", "virtio_net", "virtio_scsi", "virtio_console", "virtio_balloon", "virtio_rng"]) {
    t.true(lines.includes(`driver ${name}`), `${name} in: ${said}`);
  }
});

test("the manifest names what the image holds", async (t) => {
  const image = await built(firstProcess);
  const manifest = await readGuestManifest(image);
  t.is(manifest.digest, basename(image));
  const { tools } = await readBundleManifest(bundle);
  t.is(tools.kernel, manifest.kernel);
  const sums = ["vmlinux", "initrd"].map((f) =>
    execFileSync("sha256sum", [`${image}/${f}`], { encoding: "utf8" }).slice(0, 64),
  );
  t.deepEqual(sums, [manifest.files.vmlinux, manifest.files.initrd]);
  t.is(execFileSync("sha256sum", [firstProcess], { encoding: "utf8" }).slice(0, 64), manifest.agentSha256);
});

test("an agent that is missing or not static, or a missing bundle, is said plainly", async (t) => {
  const failing = async (agent: string, assets?: string) => messageOf(await t.throwsAsync(built(agent, assets)));
  t.regex(await failing(join(work, "nothing")), /no agent at .*\/nothing\. Build it/);
  t.regex(await failing("/bin/ls"), /\/ls needs a loader \(it is not static\): build it for x86_64-unknown-linux-musl/);
  t.regex(await failing("/etc/passwd"), /\/etc\/passwd is no 64-bit ELF program/);
  const empty = join(work, "empty");
  mkdirSync(empty);
  t.regex(await failing(firstProcess, empty), /no runtime bundle at .*Run first: bundle\/build\.sh/);
});

/** Builds into an assets folder of its own, which shares the bundle; answers the image's folder. */
async function built(agent: string, assets?: string): Promise<string> {
  let into = assets;
  if (into === undefined) {
    into = await mkdtemp(join(work, "assets-"));
    mkdirSync(`${into}/bundle`);
    symlinkSync(bundle, `${into}/bundle/current`);
  }
  const env = { ...process.env, PODVM_ASSETS: into };
  await run([join(projectRoot, "guest/image/build.sh"), agent], { env, deadlineMs: 120_000 });
  return realpathSync(`${into}/guest/current`);
}

/** What the guest says on its serial port until it powers off. QEMU gets no environment, only the bundle's path. */
async function booted(t: ExecutionContext, image: string, cmdline: string): Promise<string> {
  // A file, not a pipe: QEMU's serial port drops what a slow reader does not take.
  const folder = await mkdtemp(join(tmpdir(), "podvm-console-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const console = join(folder, "console");
  const { stderr } = await run(
    [
      `${bundle}/bin/qemu-system-x86_64`,
      ...["-L", `${bundle}/share/qemu`, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
      ...["-M", "pc,hpet=off", "-accel", "tcg", "-cpu", "max", "-m", "256", "-serial", `file:${console}`],
      ...[
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtio-scsi-pci",
        "-device",
        "virtio-balloon-pci",
        "-nic",
        "none",
      ],
      ...["-kernel", `${image}/vmlinux`, "-initrd", `${image}/initrd`, "-append", cmdline],
    ],
    { env: {}, deadlineMs: 100_000 },
  );
  t.is(stderr, "", "QEMU has nothing to complain of");
  return readFileSync(console, "utf8");
}
