/** Live folders and files of the host in a pod: the FUSE relay, from kubelet's side and from inside (docs/volumes.md). */
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { busybox, type ContainerOptions } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
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
