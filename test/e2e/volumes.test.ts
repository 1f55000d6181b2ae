/** Volumes of a pod in a VM, as kubelet lays them out and crictl asks for them. */
import { chmod, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { sleep } from "../../src/host/deadline.js";
import { run } from "../../src/host/run.js";
import { atomicWrite, emptyDir } from "../support/kubelet-volumes.js";
import { busybox, containerConfig, type PodConfig, random } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const socketPath = `/run/podvm-test-${random()}.sock`;
const { test, podvm, images } = suite({ toml: { policy: `sockets = ["${socketPath}"]` } });

const kubelet = () => join(podvm().dir, "kubelet");
const mount = (container_path: string, host_path: string, more: Record<string, unknown> = {}) => ({
  container_path,
  host_path,
  ...more,
});

async function pod(): Promise<{ podId: string; config: PodConfig; uid: string }> {
  await podvm().crictl.attempt(["pull", busybox]);
  const config = podvm().pod();
  return { podId: await podvm().crictl.runp(config), config, uid: config.metadata.uid };
}

const sh = (id: string, script: string) => podvm().crictl.exec(id, "sh", "-c", script);

test("a ConfigMap follows its source, by real links; keys by subPath stay; the server may die between", async (t) => {
  const { podId, config, uid } = await pod();
  const { crictl } = podvm();
  const folder = join(kubelet(), "pods", uid, "volumes/kubernetes.io~configmap/conf");
  await atomicWrite(folder, { key: "one", "deep/inner": "x", gone: "soon" });
  const id = await crictl.start(
    podId,
    containerConfig({
      mounts: [
        mount("/conf", folder, { readonly: true, selinux_relabel: true }),
        mount("/single", join(folder, "key"), { readonly: true }),
      ],
    }),
    config,
  );
  t.is(await sh(id, "cat /conf/key /conf/deep/inner /conf/gone /single"), "onexsoonone");
  t.is(await sh(id, "readlink /conf/key"), "..data/key");
  t.regex(await crictl.fails("exec", "--sync", id, "sh", "-c", "echo > /conf/key"), /Read-only/);

  await atomicWrite(folder, { key: "two", "deep/inner": "y" });
  await until("the new generation is there", 30_000, async () => (await sh(id, "cat /conf/key")) === "two");
  t.is(
    await sh(id, "cat /conf/deep/inner; ls -A /conf | grep -v '^..2026' | sort | tr '\\n' ' '"),
    "y..data deep key ",
  );
  t.is(await sh(id, "cat /single"), "one", "as on a host");

  await podvm().kill();
  await atomicWrite(folder, { key: "three" });
  await podvm().start();
  await until("what was written meanwhile is there", 30_000, async () => (await sh(id, "cat /conf/key")) === "three");
  await atomicWrite(folder, { key: "four" });
  await until("and what comes after", 30_000, async () => (await sh(id, "cat /conf/key")) === "four");
  t.like((await crictl.json<{ status: { mounts: object[] } }>("inspect", id)).status.mounts[0], {
    containerPath: "/conf",
    hostPath: folder,
    readonly: true,
    propagation: "PROPAGATION_PRIVATE",
  });
  await podvm().removePod(podId);
});

test("kubelet's /etc/hosts takes the place of ours, follows the host's file, and is one for the pod", async (t) => {
  const { podId, config, uid } = await pod();
  const hosts = join(kubelet(), "pods", uid, "etc-hosts");
  await mkdir(join(hosts, ".."), { recursive: true });
  await writeFile(hosts, "127.0.0.1 localhost\n10.9.8.7 mine\n");
  const container = () => containerConfig({ mounts: [mount("/etc/hosts", hosts)] });
  const a = await podvm().crictl.start(podId, container(), config);
  const b = await podvm().crictl.start(podId, container(), config);
  t.is(await sh(a, "cat /etc/hosts"), "127.0.0.1 localhost\n10.9.8.7 mine");
  await sh(a, "echo '10.1.1.1 added' >> /etc/hosts");
  t.regex(await sh(b, "cat /etc/hosts"), /added/);
  await writeFile(hosts, "127.0.0.1 localhost\n10.9.8.8 other\n");
  await until("the change is there", 30_000, async () => /other$/.test(await sh(a, "cat /etc/hosts")));
  await podvm().removePod(podId);
});

test("emptyDir on disk and in memory: shared by containers, sized, with the host's mode, by subPath, never on the host", async (t) => {
  const { podId, config, uid } = await pod();
  const { crictl } = podvm();
  const disk = await emptyDir(kubelet(), uid, "disk");
  await chmod(disk, 0o1777);
  const memory = await emptyDir(kubelet(), uid, "memory");
  await run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs", memory]);
  t.teardown(() => run(["umount", "-l", memory], { okCodes: [0, 32] }).then(() => {}));
  await mkdir(join(memory, "inner"));
  const sub = join(kubelet(), "pods", uid, "volume-subpaths/memory/c/0");
  await mkdir(sub, { recursive: true });
  await run(["mount", "--bind", join(memory, "inner"), sub]);
  t.teardown(() => run(["umount", "-l", sub], { okCodes: [0, 32] }).then(() => {}));

  const mounts = [mount("/disk", disk), mount("/memory", memory), mount("/sub", sub), mount("/dev/shm", memory)];
  const a = await crictl.start(podId, containerConfig({ mounts }), config);
  const b = await crictl.start(podId, containerConfig({ mounts: mounts.slice(0, 2) }), config);
  await sh(a, "echo hello > /disk/a; echo deep > /sub/b; echo shm > /dev/shm/c; chmod 600 /disk/a");
  t.is(await sh(b, "cat /disk/a /memory/inner/b /memory/c"), "hello\ndeep\nshm");
  t.is(await sh(b, "stat -c %a /disk /memory"), "1777\n777");
  t.regex(await sh(a, "df -k /memory | tail -1"), /^\S+\s+2048\s/);
  t.regex(
    await crictl.fails("exec", "--sync", a, "dd", "if=/dev/zero", "of=/memory/big", "bs=1M", "count=3"),
    /No space/,
  );
  t.deepEqual(await run(["ls", "-A", disk]).then(({ stdout }) => stdout), "");
  await crictl.run("rm", "-f", a);
  const again = await crictl.start(podId, containerConfig({ mounts }), config);
  t.is(await sh(again, "cat /disk/a"), "hello", "a container that is started anew finds it");
  await podvm().removePod(podId);
});

test("the termination log is on the host before the exit is reported, also after the server was away", async (t) => {
  const { podId, config, uid } = await pod();
  const { crictl } = podvm();
  const log = join(kubelet(), "pods", uid, "containers/c/0a1b2c3d");
  await mkdir(join(log, ".."), { recursive: true });
  for (const serverDies of [false, true]) {
    await writeFile(log, "");
    await chmod(log, 0o666);
    const text = `the end ${serverDies}`;
    const id = await crictl.start(
      podId,
      containerConfig({
        command: ["sh", "-c", `sleep ${serverDies ? 3 : 0}; echo -n ${text} > /dev/termination-log; exit 3`],
        mounts: [mount("/dev/termination-log", log)],
      }),
      config,
    );
    if (serverDies) {
      await podvm().kill();
      await sleep(5_000);
      await podvm().start();
    }
    await until("it has exited", 60_000, async () => (await crictl.inspect(id)).state === "CONTAINER_EXITED");
    t.is(await readFile(log, "utf8"), text);
    await crictl.run("rm", id);
  }
  await podvm().removePod(podId);
});

test("a pod that is stopped while its container runs leaves its termination log; nothing else is left on the node", async (t) => {
  const before = await snapshot(podvm());
  const { podId, config, uid } = await pod();
  const log = join(kubelet(), "pods", uid, "containers/c/1a");
  await mkdir(join(log, ".."), { recursive: true });
  await writeFile(log, "");
  const container = containerConfig({
    command: ["sh", "-c", "echo -n still here > /log; exec sleep 3600"],
    mounts: [mount("/log", log), mount("/cache", await emptyDir(kubelet(), uid, "cache"))],
  });
  const id = await podvm().crictl.start(podId, container, config);
  await until("it has written", 20_000, async () => (await sh(id, "cat /log")) === "still here");
  await podvm().crictl.run("stopp", podId);
  t.is(await readFile(log, "utf8"), "still here");
  await podvm().crictl.run("rmp", podId);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});

test("a server that is killed while it makes a container with volumes makes it at the next attempt", async (t) => {
  const { podId, config, uid } = await pod();
  const { crictl } = podvm();
  const folder = join(kubelet(), "pods", uid, "volumes/kubernetes.io~projected/token");
  const log = join(kubelet(), "pods", uid, "containers/c/2b");
  await mkdir(join(log, ".."), { recursive: true });
  await writeFile(log, "");
  await atomicWrite(folder, { token: "t" });
  const mounts = [
    mount("/token", folder, { readonly: true }),
    mount("/log", log),
    mount("/cache", await emptyDir(kubelet(), uid, "cache")),
  ];
  for (const delay of [50, 400, 1200]) {
    const container = containerConfig({
      command: ["sh", "-c", "cat /token/token | tee /log /cache/x; exit 4"],
      mounts,
    });
    const files = [await crictl.file(container), await crictl.file(config)] as const;
    const creating = crictl.attempt(["create", podId, ...files]);
    await sleep(delay);
    await podvm().restart();
    await creating;
    for (const { id } of await crictl.containers()) await crictl.run("rm", "-f", id);
    const id = await crictl.start(podId, container, config);
    await until("it has exited", 60_000, async () => (await crictl.inspect(id)).state === "CONTAINER_EXITED");
    t.is((await crictl.inspect(id)).exitCode, 4);
    t.is(await readFile(log, "utf8"), "t");
    await crictl.run("rm", id);
    await writeFile(log, "");
  }
  await podvm().removePod(podId);
});

test("image volumes, whole and by sub-path; a path that is not in the image is an error", async (t) => {
  const { podId, config } = await pod();
  const { crictl } = podvm();
  const image = { image: images().digest(busybox) ? busybox : "" };
  const id = await crictl.start(
    podId,
    containerConfig({
      mounts: [
        { container_path: "/image", image, readonly: true },
        { container_path: "/etc-of-image", image, image_sub_path: "etc", readonly: true },
      ],
    }),
    config,
  );
  t.is(await sh(id, "cat /etc-of-image/group | head -1"), await sh(id, "head -1 /image/etc/group"));
  t.regex(await crictl.fails("exec", "--sync", id, "touch", "/image/x"), /Read-only/);
  const bad = containerConfig({ mounts: [{ container_path: "/i", image, image_sub_path: "no/such", readonly: true }] });
  t.regex(await crictl.fails("create", podId, await crictl.file(bad), await crictl.file(config)), /no\/such/);
  await podvm().removePod(podId);
});

test("an allowed socket is there; others are refused", async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  await chmod(socketPath, 0o666);
  t.teardown(() => server.close());
  const { podId, config } = await pod();
  const { crictl } = podvm();
  const id = await crictl.start(podId, containerConfig({ mounts: [mount("/run/host.sock", socketPath)] }), config);
  t.is(await sh(id, "test -S /run/host.sock && stat -c %a /run/host.sock"), "666");
  const own = containerConfig({ mounts: [mount("/run/podvm.sock", podvm().socket)] });
  t.regex(await refused(podId, own, config), /policy\.sockets/);
  await podvm().removePod(podId);
});

test("what cannot be given is refused with a reason, and leaves nothing", async (t) => {
  const { podId, config } = await pod();
  const dead = join(podvm().dir, "dead");
  await symlink("no-such", dead);
  t.regex(await refused(podId, containerConfig({ mounts: [mount("/m", dead)] }), config), /dead does not exist/);
  const shared = containerConfig({ mounts: [mount("/m", podvm().dir, { propagation: 2 })] });
  t.regex(await refused(podId, shared, config), /bidirectional/);
  t.deepEqual(await podvm().crictl.containers(), []);
  await podvm().removePod(podId);
});

test("a block device of the host is a disk of the VM; one that the host has mounted is refused; fuse and tun are the guest's", async (t) => {
  const file = join(podvm().dir, `disk-${random()}`);
  await writeFile(file, Buffer.alloc(8 << 20, "podvm"));
  const loop = await run(["losetup", "--find", "--show", file], { okCodes: [0, 1] });
  if (loop.code !== 0) {
    t.log(`SKIPPED: no loop device here: ${loop.stderr}`);
    t.pass();
    return;
  }
  const device = loop.stdout.trim();
  t.teardown(() => run(["losetup", "-d", device], { okCodes: [0, 1] }).then(() => {}));
  const { podId, config } = await pod();
  const { crictl } = podvm();
  const withDevice = (permissions: string) => ({
    ...containerConfig({ linux: { security_context: { run_as_user: { value: 1000 } } } }),
    devices: [
      { host_path: device, container_path: "/dev/xvda", permissions },
      { host_path: "/dev/fuse", container_path: "/dev/fuse", permissions: "rwm" },
    ],
  });
  const id = await crictl.start(podId, withDevice("rwm"), config);
  t.is(await sh(id, "head -c 10 /dev/xvda"), "podvmpodvm");
  await sh(id, "echo -n guest | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null");
  t.is((await readFile(file)).subarray(0, 5).toString(), "guest");
  t.regex(await sh(id, "ls -l /dev/fuse"), /^c/);
  await podvm().removePod(podId);

  await run(["mkfs.ext2", "-q", device]);
  const at = join(podvm().dir, "mounted");
  await mkdir(at, { recursive: true });
  await run(["mount", device, at]);
  t.teardown(() => run(["umount", "-l", at], { okCodes: [0, 32] }).then(() => {}));
  const other = await pod();
  t.regex(await refused(other.podId, withDevice("rwm"), other.config), /the host uses it/);
  const character = {
    ...containerConfig(),
    devices: [{ host_path: "/dev/kmsg", container_path: "/dev/kmsg", permissions: "r" }],
  };
  t.regex(await refused(other.podId, character, other.config), /character device/);
  await podvm().removePod(other.podId);
});

test("a symbolic link as the source is followed", async (t) => {
  const { podId, config, uid } = await pod();
  const folder = join(kubelet(), "pods", uid, "volumes/kubernetes.io~secret/s");
  await atomicWrite(folder, { token: "secret" });
  const link = join(podvm().dir, `link-${random()}`);
  await symlink(folder, link);
  const id = await podvm().crictl.start(
    podId,
    containerConfig({ mounts: [mount("/s", link, { readonly: true })] }),
    config,
  );
  t.is(await sh(id, "cat /s/token"), "secret");
  await podvm().removePod(podId);
});

async function refused(podId: string, container: object, config: PodConfig): Promise<string> {
  const { crictl } = podvm();
  return crictl.fails("create", podId, await crictl.file(container), await crictl.file(config));
}
