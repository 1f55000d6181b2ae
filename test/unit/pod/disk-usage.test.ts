import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { writableUsage } from "../../../src/pod/disk-usage.js";
import { Pod } from "../../../src/pod/pod.js";
import type { PodDocument } from "../../../src/pod/types.js";

test("what sparse disks take, without those that are gone or read-only", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-disks-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = join(folder, "scratch");
  const file = await open(path, "w");
  await file.write(Buffer.alloc(1 << 20, 1));
  await file.truncate(1 << 30);
  await file.sync();
  await file.close();
  const pod = (disk: string, readOnly = false) =>
    new Pod({
      id: disk,
      vm: { disks: [{ serial: "s", source: { kind: "raw", path: disk, readOnly } }] },
    } as unknown as PodDocument);
  const used = await writableUsage([pod(path), pod(join(folder, "gone")), pod(path, true)]);
  t.true(used.bytes >= 1 << 20 && used.bytes < 4 << 20, `${used.bytes}`);
  t.is(used.inodes, 1);
});
