/** The QEMU backend: real launcher, real QEMU, real guest kernel. Where the guest has no part, its VM is paused at once, to leave the processors to others. */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, link, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { sayHello } from "../../src/agent/hello.js";
import { bundleTool } from "../../src/host/assets.js";
import { hasCode, PodvmError } from "../../src/host/errors.js";
import { silentLogger } from "../../src/host/log.js";
import { isAlive, processStat } from "../../src/host/process.js";
import { run } from "../../src/host/run.js";
import { createQemuVmm } from "../../src/vmm/qemu/backend.js";
import { placeDisk } from "../../src/vmm/qemu/disks.js";
import { Qmp } from "../../src/vmm/qemu/qmp.js";
import type { DiskSpec, Vm, Vmm, VmSpec } from "../../src/vmm/vmm.js";
import { createScratch } from "../../src/volume/scratch.js";
import * as host from "./vmm-host.js";

const deadline = 60_000;
const uid = 231_999;

interface Rig {
  vmm: Vmm;
  spec: VmSpec;
  /** Folder for files that are not the VM's. */
  store: string;
}

async function rig(t: ExecutionContext): Promise<Rig> {
  const store = await host.folder(t);
  const { bundle, guest } = host.assets();
  const id = randomBytes(32).toString("hex");
  const spec: VmSpec = {
    id,
    dir: join(store, "vm"),
    runDir: `/run/podvm-test-${id}`,
    uid,
    cgroup: `/podvm-test-${id.slice(0, 12)}`,
    memoryMib: 256,
    vcpus: 1,
    guest,
    bundle,
    disks: [],
  };
  const vmm = backend();
  t.teardown(() => vmm.destroy(spec, deadline));
  return { vmm, spec, store };
}

const backend = () => createQemuVmm({ assets: host.assets(), logger: silentLogger, accelerator: "auto" });

async function startPaused(t: ExecutionContext, { vmm, spec }: Rig): Promise<Vm> {
  const vm = await vmm.start(spec, deadline);
  t.teardown(() => vm.release());
  await vm.pause();
  return vm;
}

/** An image of two files with random bytes, the second longer than what is to be taken of it. */
async function image(store: string): Promise<{ disk: DiskSpec; content: Buffer }> {
  const [a, b] = [randomBytes(4096), randomBytes(1 << 20)];
  const paths = [join(store, "index"), join(store, "layer.tar")] as const;
  await writeFile(paths[0], a);
  await writeFile(paths[1], Buffer.concat([b, randomBytes(1000)]));
  for (const path of paths) await chmod(path, 0o444);
  const extents = [
    { path: paths[0], bytes: a.length },
    { path: paths[1], bytes: b.length },
  ];
  const disk: DiskSpec = { serial: "img-1", source: { kind: "image", image: { imageId: "sha256:test", extents } } };
  return { disk, content: Buffer.concat([a, b]) };
}

/** What is left of a VM on this machine. */
async function traces({ dir, runDir, cgroup }: VmSpec): Promise<string[]> {
  return [dir, runDir].filter((path) => existsSync(path)).concat(await host.cgroupFolders(cgroup));
}

/** Asks QEMU itself; nobody else may be connected. */
async function ask(spec: VmSpec, command: string): Promise<unknown> {
  const qmp = await Qmp.connect(join(spec.runDir, "qmp.sock"), deadline);
  try {
    return await qmp.execute(command, {}, deadline);
  } finally {
    qmp.close();
  }
}

interface Block {
  qdev: string;
  inserted?: { "node-name": string; ro: boolean; image: { "virtual-size": number } };
}
const blocks = async (spec: VmSpec) => (await ask(spec, "query-block")) as Block[];

test("the VMM is confined: user, capabilities, system calls, root, descriptors", async (t) => {
  const r = await rig(t);
  r.spec.network = { netns: await host.netnsWithTap(t, "tap0", uid), tap: "tap0", mac: "02:00:00:00:00:01", mtu: 1450 };
  const vm = await startPaused(t, r);
  const status = await host.status(vm.pid);
  t.is(status.Uid, [uid, uid, uid, uid].join("\t"));
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) t.is(status[set], "0000000000000000", set);
  t.is(status.NoNewPrivs, "1");
  t.is(status.Seccomp, "2", "a filter is in force");
  const disks = join(r.spec.dir, "disks");
  const binds = [r.spec.bundle, r.spec.guest, disks];
  t.deepEqual([...(await host.mounts(vm.pid)).keys()].sort(), ["/", ...binds].sort());
  const devices = (await host.rootContents(vm.pid, binds)).filter((path) => path !== "/dev/kvm");
  t.deepEqual(devices, ["/dev/null", "/dev/urandom"]);
  t.is((await stat(disks)).uid, 0, "it can make no file where its disks lie");
  t.is((await host.namespaces(vm.pid)).net, `net:[${(await stat(r.spec.network.netns)).ino}]`);
  for (const [fd, target] of await host.descriptors(vm.pid)) {
    const own =
      /^(socket:|anon_inode:|pipe:|\/dev\/null$|.*\/net\/tun$)/.test(target) || target.startsWith(r.spec.bundle);
    t.true(own, `descriptor ${fd} leads to ${target}`);
  }
});

test("the guest's agent answers on the link, also after the server comes back", async (t) => {
  const { vmm, spec } = await rig(t);
  const vm = await vmm.start(spec, deadline);
  const hello = async (path: string) => {
    const socket = connect(path);
    try {
      await sayHello(socket, AbortSignal.timeout(deadline));
    } finally {
      socket.destroy();
    }
  };
  await hello(vm.link.path);
  vm.release();
  const again = await backend().adopt(spec, deadline);
  if (!again) return t.fail("not adopted");
  await hello(again.link.path);
  again.release();
  t.pass();
});

test("disks: there at boot, added later, seen again by another server, taken away", async (t) => {
  const r = await rig(t);
  const { spec, store } = r;
  const scratch = await createScratch({ mkfs: bundleTool(spec, "mkfs.ext4"), dir: spec.dir, sizeGib: 10, uid });
  spec.disks = [{ serial: "scratch", source: { kind: "raw", path: scratch, readOnly: false } }];
  const { disk, content } = await image(store);
  const vm = await startPaused(t, r);
  await Promise.all([vm.attachBlock(disk, deadline), vm.attachBlock(disk, deadline)]);
  vm.release();

  const byNode = new Map((await blocks(spec)).map((b) => [b.inserted?.["node-name"], b]));
  t.like(byNode.get("disk-scratch"), {
    qdev: "scsi-scratch",
    inserted: { ro: false, image: { "virtual-size": 10 * 2 ** 30 } },
  });
  t.like(byNode.get("disk-img-1"), {
    qdev: "scsi-img-1",
    inserted: { ro: true, image: { "virtual-size": content.length } },
  });

  const adopted = await backend().adopt(spec, deadline);
  if (!adopted) return t.fail("not adopted");
  t.teardown(() => adopted.release());
  t.is(adopted.pid, vm.pid);
  await adopted.attachBlock(disk, deadline); // it is there: nothing to do
  await adopted.attachBlock({ ...disk, serial: "img-2" }, deadline);
  await adopted.detachBlock("img-1", deadline);
  await adopted.detachBlock("img-1", deadline);
  const files = (await readdir(join(spec.dir, "disks"))).sort();
  t.deepEqual(files, ["img-2.0", "img-2.1", "img-2.vmdk", "scratch.raw"]);
  await adopted.attachBlock(disk, deadline);
  adopted.release();
  const nodes = (await blocks(spec)).map((b) => b.inserted?.["node-name"]).sort();
  t.deepEqual(nodes, ["disk-img-1", "disk-img-2", "disk-scratch"]);
});

test("an image's disk reads back byte for byte", async (t) => {
  const { spec, store } = await rig(t);
  const { disk, content } = await image(store);
  await placeDisk(spec, disk);
  await placeDisk(spec, disk); // a step repeated after a crash
  const [from, to] = [join(spec.dir, "disks/img-1.vmdk"), join(store, "out.raw")];
  await run([bundleTool(spec, "qemu-img"), "convert", "-f", "vmdk", "-O", "raw", from, to]);
  t.deepEqual(await readFile(to), content);
});

test("a disk that cannot be attached leaves nothing behind", async (t) => {
  const r = await rig(t);
  const vm = await startPaused(t, r);
  const { disk } = await image(r.store);
  const attach = (change: Partial<DiskSpec>) =>
    t.throwsAsync(vm.attachBlock({ ...disk, ...change }, deadline), { instanceOf: PodvmError });
  const extents = disk.source.kind === "image" ? disk.source.image.extents : [];

  const short = extents.map((e) => ({ ...e, bytes: e.bytes + 512 }));
  t.regex(
    (await attach({ source: { kind: "image", image: { imageId: "i", extents: short } } }))?.message ?? "",
    /holds 4096 bytes, 4608 wanted/,
  );

  const elsewhere = `/dev/shm/podvm-test-${r.spec.id}`;
  await writeFile(elsewhere, Buffer.alloc(512));
  t.teardown(() => rm(elsewhere));
  const far = await attach({ source: { kind: "raw", path: elsewhere, readOnly: true } });
  t.true(hasCode(far, "failed_precondition"));
  t.regex(far?.message ?? "", /on one file system/);

  // Root's alone: QEMU, another user, may not open it.
  const secret = join(r.store, "secret");
  await writeFile(secret, Buffer.alloc(512), { mode: 0o600 });
  t.regex(
    (await attach({ source: { kind: "raw", path: secret, readOnly: true } }))?.message ?? "",
    /blockdev-add.*Permission denied/,
  );

  t.true(hasCode(await attach({ serial: "../../etc" }), "invalid_argument"));
  t.deepEqual(await readdir(join(r.spec.dir, "disks")), []);
  vm.release();
  t.deepEqual(await blocks(r.spec), []);
});

test("a killed VMM is noticed, cannot be adopted, and leaves nothing once destroyed", async (t) => {
  const r = await rig(t);
  const vm = await startPaused(t, r);
  process.kill(vm.pid, "SIGKILL");
  t.deepEqual(await vm.exited, { reason: "VMM died" });
  t.true(hasCode(await t.throwsAsync(vm.hostCost()), "not_found"));
  t.is(await r.vmm.adopt(r.spec, deadline), undefined);
  t.true(hasCode(await t.throwsAsync(vm.attachBlock((await image(r.store)).disk, deadline)), "unavailable"));
  await r.vmm.destroy(r.spec, deadline);
  t.deepEqual(await traces(r.spec), []);
});

test("destroy by a server that knows only the spec leaves nothing, and may be repeated", async (t) => {
  const r = await rig(t);
  const { disk } = await image(r.store);
  r.spec.disks = [disk];
  const vm = await startPaused(t, r);
  const stat = await processStat(vm.pid);
  t.true((await traces(r.spec)).length > 2);
  await backend().destroy(r.spec, deadline);
  t.false(await isAlive({ pid: vm.pid, starttime: stat?.starttime ?? 0 }));
  t.deepEqual(await traces(r.spec), []);
  t.false((await readFile("/proc/self/mountinfo", "utf8")).includes(r.spec.id));
  await backend().destroy(r.spec, deadline);
  t.true(existsSync(join(r.store, "layer.tar")), "the image's own file stays");
});

test("destroy finds a VMM whose pid file is lost or spoilt", async (t) => {
  for (const spoil of [(path: string) => rm(path), (path: string) => writeFile(path, "{")]) {
    const r = await rig(t);
    const vm = await startPaused(t, r);
    await spoil(join(r.spec.runDir, "pid"));
    await backend().destroy(r.spec, deadline);
    await vm.exited;
    t.deepEqual(await traces(r.spec), []);
  }
});

test("exited tells that the server ended it", async (t) => {
  const r = await rig(t);
  const vm = await startPaused(t, r);
  await r.vmm.destroy(r.spec, deadline);
  t.deepEqual(await vm.exited, { reason: "killed" });
});

test("a second start of a running VM is refused, and the VM goes on", async (t) => {
  const r = await rig(t);
  const vm = await startPaused(t, r);
  t.true(hasCode(await t.throwsAsync(backend().start(r.spec, deadline)), "already_exists"));
  t.truthy(await processStat(vm.pid));
});

test("a VM that died can be started again from its spec", async (t) => {
  const r = await rig(t);
  r.spec.disks = [(await image(r.store)).disk];
  const first = await startPaused(t, r);
  process.kill(first.pid, "SIGKILL");
  await first.exited;
  const second = await startPaused(t, r);
  t.truthy(await processStat(second.pid));
  t.not(second.pid, first.pid);
});

test("pause, resume, cost", async (t) => {
  const r = await rig(t);
  const vm = await startPaused(t, r);
  vm.release();
  t.like(await ask(r.spec, "query-status"), { running: false, status: "paused" });
  const again = await r.vmm.adopt(r.spec, deadline);
  await again?.resume();
  const cost = await again?.hostCost();
  again?.release();
  t.like(await ask(r.spec, "query-status"), { running: true });
  t.true(cost && cost.pss > 1 << 20 && cost.rss >= cost.pss && cost.cpuNs > 0n);
});

test("a VM that was never started is none, and destroying it is no error", async (t) => {
  const { vmm, spec } = await rig(t);
  t.is(await vmm.adopt(spec, deadline), undefined);
  await vmm.destroy(spec, deadline);
  t.deepEqual(await traces(spec), []);
});

test("a guest kernel that panics ends the VM", async (t) => {
  const r = await rig(t);
  const guest = join(r.store, "guest");
  await mkdir(guest);
  for (const name of ["vmlinux", "manifest.json"]) await link(join(r.spec.guest, name), join(guest, name));
  await writeFile(join(guest, "initrd"), Buffer.alloc(512)); // no init in it
  r.spec.guest = guest;
  const vm = await r.vmm.start(r.spec, deadline);
  t.deepEqual(await vm.exited, { reason: "guest panic" });
});

test("a start that fails says why and leaves nothing", async (t) => {
  type Case = { name: string; message: RegExp; change(spec: VmSpec, store: string): Promise<unknown> | object };
  const cases: Case[] = [
    {
      name: "no kernel",
      message: /guest image lacks .*vmlinux/,
      change: (spec) => Object.assign(spec, { guest: dirname(spec.guest) }),
    },
    {
      name: "a kernel that is none",
      message: /did not come up: .*(kernel|ELF|load)/i,
      async change(spec, store) {
        spec.guest = join(store, "guest");
        await mkdir(spec.guest);
        for (const file of ["vmlinux", "initrd"]) await writeFile(join(spec.guest, file), randomBytes(8192));
        await writeFile(join(spec.guest, "manifest.json"), '{"cmdline":"quiet"}');
      },
    },
    {
      name: "no tap",
      message: /open tap tap9: No such device/,
      async change(spec) {
        spec.network = {
          netns: await host.netnsWithTap(t, "tap0", uid),
          tap: "tap9",
          mac: "02:00:00:00:00:01",
          mtu: 1500,
        };
      },
    },
    {
      name: "no disk",
      message: /ENOENT/,
      change: (spec) =>
        spec.disks.push({ serial: "a", source: { kind: "raw", path: "/podvm-none", readOnly: true } }) && {},
    },
    {
      name: "more memory than there can be",
      message: /did not come up/,
      change: (spec) => Object.assign(spec, { memoryMib: 2 ** 40 }),
    },
  ];
  for (const { name, message, change } of cases) {
    const { vmm, spec, store } = await rig(t);
    await change(spec, store);
    const err = await t.throwsAsync(vmm.start(spec, deadline));
    t.regex(err?.message ?? "", message, name);
    t.deepEqual(await traces(spec), [], name);
  }
});

test("a cgroup name that leaves the hierarchy is refused before anything is made", async (t) => {
  const { vmm, spec } = await rig(t);
  const escaping = { ...spec, cgroup: "/podvm-test/../../x" };
  t.true(hasCode(await t.throwsAsync(vmm.start(escaping, deadline)), "invalid_argument"));
  t.deepEqual(await traces(spec), []);
});

test("status names version and accelerator, and the reason where it is only TCG", async (t) => {
  const status = await backend().status();
  t.true(status.usable);
  t.regex(status.version, /^\d+\.\d+/);
  if (status.accelerator === "tcg") t.regex(status.reason ?? "", /KVM is not usable: /);
  else t.is(status.accelerator, "kvm");
  const broken = createQemuVmm({
    assets: { ...host.assets(), bundle: "/podvm-none" },
    logger: silentLogger,
    accelerator: "auto",
  });
  t.like(await broken.status(), { usable: false });
  t.regex((await broken.status()).reason ?? "", /podvm-none/);
});
