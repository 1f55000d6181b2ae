/** What each kind of mount becomes; the sources are real. */
import { mkdir, mkdtemp, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { MountConfig } from "../../../src/pod/types.js";
import { classifyDevice } from "../../../src/volume/block.js";
import { classifyMount } from "../../../src/volume/classify.js";
import { mountOptions } from "../../../src/volume/mount-options.js";
import { readMountInfo } from "../../../src/volume/mountinfo.js";
import { writeTerminationLog } from "../../../src/volume/termination-log.js";
import { atomicWrite, emptyDir } from "../../support/kubelet-volumes.js";

const podUid = "0a1b-uid";

function mount(hostPath: string, more: Partial<MountConfig> = {}): MountConfig {
  return {
    containerPath: "/m",
    hostPath,
    readonly: false,
    recursiveReadonly: false,
    propagation: "private",
    options: [],
    ...more,
  };
}

async function scratch(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "podvm-classify-"));
  t.teardown(() => rm(dir, { recursive: true }));
  return dir;
}

const classify = async (what: MountConfig, sockets: string[] = []) =>
  classifyMount(what, { podUid, sockets, mounts: await readMountInfo() });

test("ConfigMaps are synced while they are read-only; their keys are copied once", async (t) => {
  const dir = join(await scratch(t), "v");
  await atomicWrite(dir, { key: "1" });
  t.like((await classify(mount(dir, { readonly: true }))).spec, {
    kind: "synced",
    source: dir,
    singleFile: false,
    follow: true,
  });
  t.is((await classify(mount(dir))).spec.kind, "share");
  t.like((await classify(mount(join(dir, "key"), { readonly: true }))).spec, {
    kind: "synced",
    singleFile: true,
    follow: false,
  });
});

test("the pod's own files and kubelet's etc-hosts are synced, other files relayed", async (t) => {
  const dir = await scratch(t);
  const file = join(dir, "file");
  await writeFile(file, "x");
  for (const containerPath of ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"]) {
    t.like((await classify(mount(file, { containerPath }))).spec, { kind: "synced", singleFile: true, follow: true });
  }
  const hosts = join(dir, "pods", podUid, "etc-hosts");
  await mkdir(join(hosts, ".."), { recursive: true });
  await writeFile(hosts, "x");
  t.is((await classify(mount(hosts))).spec.kind, "synced");
  t.like((await classify(mount(file, { readonly: true, propagation: "hostToContainer" }))).spec, {
    kind: "share",
    entry: { hostPath: file, readonly: true, recursiveReadonly: false, propagation: "hostToContainer" },
  });
  const [a, b] = [await classify(mount(file)), await classify(mount(file, { readonly: true }))];
  t.not(a.key, b.key, "what is read-only is an entry of its own");
});

test("an emptyDir of this pod is local, with the path inside it; one of another pod is a folder like any", async (t) => {
  const dir = await scratch(t);
  const root = await emptyDir(dir, podUid, "cache");
  await mkdir(join(root, "a/b"), { recursive: true });
  const inside = await classify(mount(join(root, "a/b")));
  t.like(inside, { subPath: "a/b", spec: { kind: "local", memory: false, size: 0, mode: 0o777 } });
  t.is(inside.key, (await classify(mount(root))).key);
  t.is((await classify(mount(await emptyDir(dir, "another", "cache")))).spec.kind, "share");
});

test("the termination log is an own kind, and only kubelet's path of this pod is one", async (t) => {
  const dir = await scratch(t);
  const log = join(dir, "pods", podUid, "containers/c/0a1b");
  await mkdir(join(log, ".."), { recursive: true });
  await writeFile(log, "old content that is longer");
  t.deepEqual((await classify(mount(log))).spec, { kind: "log", source: log });
  t.is((await classify(mount(log, { readonly: true }))).spec.kind, "share");
  await writeTerminationLog(log, Buffer.from("new"));
  const { readFile } = await import("node:fs/promises");
  t.is(await readFile(log, "utf8"), "new");
  await rm(log);
  await writeTerminationLog(log, Buffer.from("gone is no error"));
  await writeFile(join(dir, "target"), "safe");
  await symlink(join(dir, "target"), log);
  await t.throwsAsync(writeTerminationLog(log, Buffer.from("evil")));
  t.is(await readFile(join(dir, "target"), "utf8"), "safe");
});

test("links are followed; what is missing is made; a dead link, bidirectional, a device or a socket nobody allowed is refused with a reason", async (t) => {
  const dir = await scratch(t);
  await symlink(dir, join(dir, "link"));
  t.like((await classify(mount(join(dir, "link")))).spec, { kind: "share", entry: { hostPath: dir } });
  await symlink(join(dir, "nowhere"), join(dir, "dangling"));
  await t.throwsAsync(classify(mount(join(dir, "dangling"))), { code: "not_found", message: /does not exist/ });
  t.like((await classify(mount(join(dir, "made/below")))).spec, {
    kind: "share",
    entry: { hostPath: join(dir, "made/below") },
  });
  t.true((await stat(join(dir, "made/below"))).isDirectory(), "as containerd and CRI-O do it");
  await t.throwsAsync(classify(mount(dir, { propagation: "bidirectional" })), {
    code: "failed_precondition",
    message: /host backend/,
  });
  await t.throwsAsync(classify(mount("/dev/null")), { code: "failed_precondition", message: /character device/ });
  const path = join(dir, "s.sock");
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => server.close());
  await t.throwsAsync(classify(mount(path)), { code: "failed_precondition", message: /policy\.sockets/ });
  await symlink(path, join(dir, "allowed.sock"));
  t.like((await classify(mount(path), [join(dir, "allowed.sock")])).spec, { kind: "socket", source: path });
});

test("devices: the guest's own by number, no other character device, no files", async (t) => {
  const device = (hostPath: string) => ({ hostPath, containerPath: "/dev/x", permissions: "rw" });
  const mounts = await readMountInfo();
  t.deepEqual(await classifyDevice(device("/dev/zero"), mounts), { kind: "guest", path: "/dev/zero" });
  await t.throwsAsync(classifyDevice(device("/dev/tty"), mounts), { message: /character device/ });
  await t.throwsAsync(classifyDevice(device("/etc/passwd"), mounts), { message: /wanted a device/ });
  await t.throwsAsync(classifyDevice(device("/dev/no-such"), mounts), { code: "not_found" });
});

test("mount options", (t) => {
  t.deepEqual(mountOptions(mount("/a", { options: ["noexec"] })), ["rbind", "rprivate", "rw", "noexec"]);
  t.deepEqual(mountOptions(mount("/a", { readonly: true, recursiveReadonly: true })), [
    "rbind",
    "rprivate",
    "ro",
    "rro",
  ]);
  t.is(mountOptions(mount("/a", { propagation: "hostToContainer" }))[1], "rslave");
});
