/** Live folders and files of the host in a pod: the FUSE relay, from kubelet's side and from inside (docs/volumes.md). */
import { copyFileSync, existsSync, mkdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { busybox, type ContainerOptions } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

let folders = 0;
/** A folder of the host, of this test alone. */
function hostFolder(): string {
  const folder = join(podvm().dir, `live-${folders++}`);
  mkdirSync(folder);
  return realpathSync(folder);
}

const hostPath = (path: string, more: Record<string, unknown> = {}) => ({
  container_path: "/v",
  host_path: path,
  ...more,
});
const sh = (id: string, script: string) => podvm().crictl.exec(id, "sh", "-c", script);
const podWith = (container: ContainerOptions) => podvm().podWith(container);

/** The pod's share, as its pid file names it. */
function sharePid(podId: string): number {
  return JSON.parse(readFileSync(join(podvm().runDir, "vms", podId.slice(0, 20), "share.pid"), "utf8")).pid;
}

test.before(async () => {
  await podvm().crictl.run("pull", busybox);
});

test("what either side writes is there for the other; a share serves all volumes of the pod, and is gone with it", async (t) => {
  const folder = hostFolder();
  writeFileSync(join(folder, "from-host"), "host");
  const single = join(folder, "single.conf");
  writeFileSync(single, "one");
  await podvm().warmUp();
  const before = await snapshot(podvm());
  const { podId, id } = await podWith({
    mounts: [hostPath(folder), { container_path: "/etc/single", host_path: single, readonly: true }],
  });
  t.is(await sh(id, "cat /v/from-host /etc/single"), "hostone");
  await sh(
    id,
    "echo -n guest > /v/from-guest; mkdir -p /v/a/b; ln -s ../from-host /v/a/link; chown 12:34 /v/from-guest",
  );
  t.is(readFileSync(join(folder, "from-guest"), "utf8"), "guest");
  t.is(await sh(id, "cat /v/a/link; stat -c %u:%g /v/from-guest"), "host12:34");
  writeFileSync(join(folder, "from-host"), "host again");
  await until("the change is seen", 5_000, async () => (await sh(id, "cat /v/from-host")) === "host again");
  t.regex(await podvm().crictl.fails("exec", "--sync", id, "sh", "-c", "echo x > /etc/single"), /Read-only/);
  t.is(
    await sh(id, "dd if=/dev/urandom of=/v/big bs=64k count=64 2>/dev/null; md5sum < /v/big"),
    await md5(folder, "big"),
  );
  const processes = (await snapshot(podvm())).processes.filter((command) => command.includes("podvm-share run"));
  t.is(processes.length, 1);
  await podvm().removePod(podId);
  t.deepEqual(left(before, await snapshot(podvm())), {});
  t.false(existsSync(join(podvm().runDir, "vms", podId.slice(0, 20))));
});

async function md5(folder: string, name: string): Promise<string> {
  const { stdout } = await run(["sh", "-c", 'md5sum < "$0"', join(folder, name)]);
  return stdout.trim();
}

test("the share is killed, the server is killed, both are: the container sees a pause", async (t) => {
  const folder = hostFolder();
  const script =
    "exec 3>>/v/log; n=0; while :; do n=$((n+1)); echo $n >&3 || exit 1; echo $n > /v/now || exit 2; usleep 20000; done";
  const { podId, id } = await podWith({ command: ["sh", "-c", script], mounts: [hostPath(folder)] });
  const now = () => Number(readFileSync(join(folder, "now"), "utf8") || "0");
  const goesOn = async (what: string) => {
    const seen = now();
    await until(what, 30_000, () => now() > seen + 5);
  };
  await until("it has begun", 10_000, () => existsSync(join(folder, "now")));

  const first = sharePid(podId);
  process.kill(first, "SIGKILL");
  await goesOn("it goes on after the share's death");
  const second = sharePid(podId);
  t.not(second, first);

  await podvm().kill();
  await goesOn("it goes on without the server");
  t.is(sharePid(podId), second);
  await podvm().start();
  await goesOn("it goes on with the new server");
  t.is(sharePid(podId), second, "which found the share");

  await podvm().kill();
  process.kill(second, "SIGKILL");
  await podvm().start();
  await goesOn("it goes on after the death of both");
  process.kill(sharePid(podId), "SIGKILL");
  await goesOn("the new server watches its share");

  t.is((await podvm().crictl.containers("--id", id))[0]?.state, "CONTAINER_RUNNING");
  await podvm().crictl.run("stop", "--timeout", "0", id);
  const lines = readFileSync(join(folder, "log"), "utf8").trimEnd().split("\n").map(Number);
  t.deepEqual(
    lines.filter((line, i) => line !== i + 1),
    [],
    "no line is lost or doubled",
  );
  await podvm().removePod(podId);
});

test("mounts below a volume: read-only is for the volume itself, recursively for all; a slave sees later ones", async (t) => {
  const folder = hostFolder();
  mkdirSync(join(folder, "sub"));
  mkdirSync(join(folder, "later"));
  const mount = (...args: string[]) => run(["mount", ...args]);
  await mount("--bind", folder, folder);
  await mount("--make-shared", folder);
  t.teardown(() => run(["umount", "-R", folder]));
  await mount("-t", "tmpfs", "none", join(folder, "sub"));
  const { podId, id } = await podWith({
    mounts: [
      hostPath(folder, { container_path: "/ro", readonly: true }),
      hostPath(folder, { container_path: "/rro", readonly: true, recursive_read_only: true }),
      hostPath(folder, { container_path: "/slave", propagation: 1 }),
    ],
  });
  const readOnly = (path: string) => podvm().crictl.fails("exec", "--sync", id, "touch", path);
  t.regex(await readOnly("/ro/f"), /Read-only/);
  await sh(id, "touch /ro/sub/f");
  t.regex(await readOnly("/rro/f"), /Read-only/);
  t.regex(await readOnly("/rro/sub/f"), /Read-only/);
  await mount("-t", "tmpfs", "none", join(folder, "later"));
  writeFileSync(join(folder, "later/f"), "");
  await until("the later mount is seen", 5_000, async () => (await sh(id, "ls /slave/later")) === "f");
  t.is(await sh(id, "ls /ro/later"), "");
  await podvm().removePod(podId);
});

test("a file that the host replaces is seen anew; links lead nowhere but into the container", async (t) => {
  const folder = hostFolder();
  writeFileSync(join(folder, "secret"), "outside");
  mkdirSync(join(folder, "in"));
  writeFileSync(join(folder, "in/f"), "old");
  const { podId, id } = await podWith({ mounts: [hostPath(join(folder, "in"))] });
  t.is(await sh(id, "cat /v/f"), "old");
  writeFileSync(join(folder, "in/f.new"), "new");
  renameSync(join(folder, "in/f.new"), join(folder, "in/f"));
  await until("the new file", 5_000, async () => (await sh(id, "cat /v/f")) === "new");
  await sh(id, `ln -s ../secret /v/up; ln -s ${folder}/secret /v/absolute; ln -s /etc/hostname /v/own`);
  t.regex(await podvm().crictl.fails("exec", "--sync", id, "cat", "/v/up"), /No such file/);
  t.regex(await podvm().crictl.fails("exec", "--sync", id, "cat", "/v/absolute"), /No such file/);
  t.regex(await sh(id, "cat /v/own"), /^pod-/);
  await podvm().removePod(podId);
});

test("POSIX, from inside a container", async (t) => {
  const folder = hostFolder();
  copyFileSync(tool("posix-checks"), join(folder, "posix-checks"));
  mkdirSync(join(folder, "work"));
  const { podId, id } = await podWith({
    mounts: [hostPath(folder)],
    linux: { security_context: { privileged: true } },
  });
  const said = (await sh(id, "/v/posix-checks /v/work || true")).split("\n");
  t.deepEqual(
    said.filter((line) => !line.startsWith("ok ")),
    [],
  );
  t.true(said.length > 60);
  await podvm().removePod(podId);
});
