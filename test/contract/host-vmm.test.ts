/** The backend without a VM, with the real agent, cgroups, mounts and loop devices of this machine. */
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { chmod, mkdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { hasCode } from "../../src/host/errors.js";
import { silentLogger } from "../../src/host/log.js";
import { mountsBelow, unmountBelow } from "../../src/host/mounts.js";
import { run } from "../../src/host/run.js";
import { createHostVmm } from "../../src/vmm/host/backend.js";
import type { DiskSpec, Vm, VmSpec } from "../../src/vmm/vmm.js";
import { until } from "../support/until.js";
import * as host from "./vmm-host.js";

const deadline = 30_000;

interface Bench {
  stateDir: string;
  spec: VmSpec;
  vmm: ReturnType<typeof createHostVmm>;
}

async function bench(t: ExecutionContext, part: Partial<VmSpec> = {}): Promise<Bench> {
  const stateDir = await host.folder(t);
  const id = randomBytes(32).toString("hex");
  const runDir = `/run/podvm-test-${id.slice(0, 12)}`;
  const { bundle, guest } = host.assets();
  const vmm = createHostVmm({ assets: host.assets(), stateDir, logger: silentLogger });
  const spec: VmSpec = {
    id,
    dir: join(stateDir, "vms", id),
    runDir,
    uid: 0,
    cgroup: host.cgroupName(t),
    memoryMib: 64,
    vcpus: 1,
    guest,
    bundle,
    disks: [],
    ...part,
  };
  t.teardown(async () => {
    await vmm.destroy(spec, deadline);
    for (const folder of [runDir, stateDir]) await unmountBelow(folder, deadline);
    await rm(runDir, { recursive: true, force: true });
  });
  return { stateDir, spec, vmm };
}

/** An EROFS image in two extents, the second one longer than what is to be taken of it. */
async function image(stateDir: string): Promise<DiskSpec> {
  const content = join(stateDir, "content");
  await mkdir(content);
  await writeFile(join(content, "hello"), "from the image");
  await writeFile(join(content, "large"), randomBytes(300_000));
  const whole = join(stateDir, "image.erofs");
  await run([bundleTool(host.assets(), "mkfs.erofs"), whole, content]);
  const bytes = await readFile(whole);
  const paths = [join(stateDir, "index"), join(stateDir, "layer")] as const;
  await writeFile(paths[0], bytes.subarray(0, 4096));
  await writeFile(paths[1], Buffer.concat([bytes.subarray(4096), randomBytes(700)]));
  for (const path of paths) await chmod(path, 0o444);
  const extents = [
    { path: paths[0], bytes: 4096 },
    { path: paths[1], bytes: bytes.length - 4096 },
  ];
  const wholePath = join(stateDir, "whole");
  return { serial: "img-1", source: { kind: "image", image: { imageId: "sha256:test", extents, wholePath } } };
}

async function traces({ dir, runDir, cgroup }: VmSpec): Promise<string[]> {
  const mounts = [...(await mountsBelow(dir)), ...(await mountsBelow(runDir))];
  return [...[dir, runDir].filter((path) => existsSync(path)), ...mounts, ...(await host.cgroupFolders(cgroup))];
}

const loopsOf = (file: string) =>
  readdirSync("/sys/block").filter((name) => {
    const backing = `/sys/block/${name}/loop/backing_file`;
    return existsSync(backing) && readFileSync(backing, "utf8").startsWith(file);
  });

async function started(t: ExecutionContext, { vmm, spec }: Bench): Promise<Vm> {
  const vm = await vmm.start(spec, deadline);
  t.teardown(() => vm.release());
  return vm;
}

test("an agent in the pod's namespaces and cgroups; nothing is left of it", async (t) => {
  const netns = await host.netnsWithTap(t, "tap0", 0);
  const one = await bench(t, { network: { netns, tap: "", mac: "02:00:00:00:00:01", mtu: 1500 } });
  t.true((await one.vmm.status()).usable, (await one.vmm.status()).reason);
  const vm = await started(t, one);
  const [its, ours] = await Promise.all([host.namespaces(vm.pid), host.namespaces("self")]);
  t.not(its.net, ours.net);
  t.not(its.ipc, ours.ipc);
  t.not(its.uts, ours.uts);
  t.is(its.mnt, ours.mnt, "what the host mounts later is seen");
  t.is(its.pid, ours.pid);
  for (const folder of await host.cgroupFolders(one.spec.cgroup)) {
    t.true(readFileSync(join(folder, "agent/cgroup.procs"), "utf8").split("\n").includes(String(vm.pid)), folder);
  }
  t.true(existsSync(vm.link.path));
  t.true((await vm.hostCost()).pss > 0);
  t.true(hasCode(await t.throwsAsync(one.vmm.start(one.spec, deadline)), "already_exists"));
  await one.vmm.destroy(one.spec, deadline);
  await one.vmm.destroy(one.spec, deadline);
  t.deepEqual(await traces(one.spec), []);
  t.is((await vm.exited).reason, "killed");
});

test("what the pod shares with the host is the host's", async (t) => {
  const one = await bench(t, { hostNamespaces: ["network", "ipc"] });
  const vm = await started(t, one);
  t.deepEqual(await host.namespaces(vm.pid), await host.namespaces("self"));
});

test("an image is mounted once for all pods, read-only, and goes with the last one that uses it", async (t) => {
  const one = await bench(t);
  const disk = await image(one.stateDir);
  const other: Bench = {
    ...one,
    spec: {
      ...one.spec,
      id: "b",
      dir: join(one.stateDir, "vms/b"),
      runDir: `${one.spec.runDir}-b`,
      cgroup: host.cgroupName(t),
    },
  };
  t.teardown(() => one.vmm.destroy(other.spec, deadline));
  for (const bench of [one, other]) {
    const vm = await started(t, bench);
    await vm.attachBlock(disk, deadline);
    await vm.attachBlock(disk, deadline);
  }
  const link = join(one.spec.dir, "disks/img-1");
  t.is(await readFile(join(link, "hello"), "utf8"), "from the image");
  t.deepEqual(await readFile(join(link, "large")), await readFile(join(one.stateDir, "content/large")));
  t.is(readlinkSync(link), readlinkSync(join(other.spec.dir, "disks/img-1")));
  await t.throwsAsync(writeFile(join(link, "hello"), "x"), { code: "EROFS" });
  const whole = join(one.stateDir, "whole");
  t.is(loopsOf(whole).length, 1);

  await one.vmm.destroy(one.spec, deadline);
  t.is(await readFile(join(other.spec.dir, "disks/img-1/hello"), "utf8"), "from the image");
  await one.vmm.destroy(other.spec, deadline);
  t.deepEqual(await mountsBelow(join(one.stateDir, "host-images")), []);
  await until("the loop device is free", 5_000, () => loopsOf(whole).length === 0);
});

test("an image that is cut short is refused, and a raw disk", async (t) => {
  const one = await bench(t);
  const disk = await image(one.stateDir);
  const vm = await started(t, one);
  if (disk.source.kind !== "image") throw new Error("no image");
  const last = disk.source.image.extents[1]?.path ?? "";
  await chmod(last, 0o644);
  await truncate(last, 512);
  t.regex((await t.throwsAsync(vm.attachBlock(disk, deadline)))?.message ?? "", /shorter than/);
  t.false(existsSync(join(one.stateDir, "whole")));
  const raw: DiskSpec = { serial: "raw", source: { kind: "raw", path: last, readOnly: true } };
  t.true(hasCode(await t.throwsAsync(vm.attachBlock(raw, deadline)), "failed_precondition"));
});

test("another server finds the agent; one that died is found dead, and its processes with it", async (t) => {
  const one = await bench(t);
  const vm = await started(t, one);
  vm.release();
  const again = createHostVmm({ assets: host.assets(), stateDir: one.stateDir, logger: silentLogger });
  const found = await again.adopt(one.spec, deadline);
  t.is(found?.pid, vm.pid);
  process.kill(vm.pid, "SIGKILL");
  t.regex((await found?.exited)?.reason ?? "", /agent died/);
  t.is(await again.adopt(one.spec, deadline), undefined);
  for (const folder of await host.cgroupFolders(one.spec.cgroup)) {
    t.is(readFileSync(join(folder, "agent/cgroup.procs"), "utf8"), "");
  }
  await again.destroy(one.spec, deadline);
  t.deepEqual(await traces(one.spec), []);
});

test("a start that fails says why and leaves nothing", async (t) => {
  const one = await bench(t, { network: { netns: "/run/netns/podvm-none", tap: "", mac: "", mtu: 1500 } });
  const err = await t.throwsAsync(one.vmm.start(one.spec, deadline));
  t.regex(err?.message ?? "", /podvm-none: No such file/);
  t.deepEqual(await traces(one.spec), []);
});

test("nothing that is mounted below a pod's folders is deleted with them", async (t) => {
  const one = await bench(t);
  await started(t, one);
  const precious = join(one.stateDir, "precious");
  await mkdir(precious);
  await writeFile(join(precious, "file"), "kept");
  const inside = join(one.spec.runDir, "agent/c/x y");
  await mkdir(inside, { recursive: true });
  await run(["mount", "--bind", precious, inside]);
  await one.vmm.destroy(one.spec, deadline);
  t.is(await readFile(join(precious, "file"), "utf8"), "kept");
  t.deepEqual(await traces(one.spec), []);
});
