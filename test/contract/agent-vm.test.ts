/** The link into a real VM: the port keeps bytes of a connection that is gone, which a unix socket does not. */
import { randomBytes } from "node:crypto";
import { chmod, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import { createQemuVmm } from "../../src/vmm/qemu/backend.js";
import type { VmSpec } from "../../src/vmm/vmm.js";
import { containerRequest, makeRoot, torture } from "./agent-host.js";
import * as host from "./vmm-host.js";

const DEADLINE_MS = 60_000;

/** An EROFS image of this machine's programs, as an image of one extent. */
async function imageFile(store: string): Promise<{ path: string; bytes: number }> {
  makeRoot(join(store, "root"));
  const path = join(store, "image.erofs");
  await run([bundleTool(host.assets(), "mkfs.erofs"), "--quiet", path, join(store, "root")]);
  await chmod(path, 0o444);
  return { path, bytes: (await stat(path)).size };
}

test("fifty cuts in mid-stream into a VM: the log is what the container wrote, to the byte", async (t) => {
  const store = await host.folder(t);
  const { bundle, guest } = host.assets();
  const id = randomBytes(32).toString("hex");
  const image = { imageId: "sha256:test", extents: [await imageFile(store)] };
  const spec: VmSpec = {
    id,
    dir: join(store, "vm"),
    runDir: `/run/podvm-test-${id}`,
    uid: 231_998,
    cgroup: host.cgroupName(t),
    memoryMib: 256,
    vcpus: 1,
    guest,
    bundle,
    disks: [{ serial: "img-1", source: { kind: "image", image } }],
  };
  const vmm = createQemuVmm({ assets: host.assets(), logger: silentLogger, accelerator: "auto" });
  t.teardown(() => vmm.destroy(spec, DEADLINE_MS));
  const vm = await vmm.start(spec, DEADLINE_MS);
  t.teardown(() => vm.release());
  const dir = join(store, "link");
  await mkdir(dir);
  await torture(t, {
    name: "cut50",
    dir,
    target: vm.link.path,
    lines: 1_200_000,
    prepare: (agent) => agent.configureSandbox({ podId: "pod1", hostname: "test" }),
    make: (script) => containerRequest("cut50", "img-1", script),
  });
});
