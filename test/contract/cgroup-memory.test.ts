/** The memory limit of a pod's cgroup, as kubelet sets it, is raised where a VM needs more; in the kernel's own files. */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import test from "ava";
import { openCgroups } from "../../src/host/cgroup.js";

const MIB = 1024 * 1024;

test("a lower limit is raised and told; a higher one, and none, stay", async (t) => {
  const groups = await openCgroups();
  if (!groups.controllers.includes("memory")) {
    t.log("not tested: no memory controller in any hierarchy");
    t.pass();
    return;
  }
  const name = `/podvmt${randomBytes(3).toString("hex")}`;
  const folders = await groups.make(name);
  t.teardown(() => groups.remove(name, 10_000));
  const leaf = groups.version === 2 ? "memory.max" : "memory.limit_in_bytes";
  const file = folders.map((folder) => `${folder}/${leaf}`).find((path) => existsSync(path)) ?? "none";
  const limit = async () => (await readFile(file, "utf8")).trim();

  const unlimited = await limit();
  t.is(await groups.raiseMemoryLimit(name, 64 * MIB), undefined);
  t.is(await limit(), unlimited);
  await writeFile(file, String(64 * MIB));
  t.is(await groups.raiseMemoryLimit(name, 256 * MIB), 64 * MIB);
  t.is(await limit(), String(256 * MIB));
  t.is(await groups.raiseMemoryLimit(name, 128 * MIB), undefined);
  t.is(await limit(), String(256 * MIB));
  t.is(await groups.raiseMemoryLimit(`${name}/none`, 128 * MIB), undefined);
});
