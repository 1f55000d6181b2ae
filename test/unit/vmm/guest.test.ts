import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { readGuest } from "../../../src/vmm/qemu/guest.js";

for (const [what, manifest, wanted] of [
  ["no manifest", undefined, /lacks .*manifest\.json: run setup again/],
  ["a manifest without a command line", "{}", /wanted "cmdline"/],
  ["an empty command line", '{"cmdline":""}', /wanted "cmdline"/],
  ["no JSON", "x", /wanted "cmdline"/],
] as const) {
  test(`a guest image with ${what} is refused`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "podvm-guest-"));
    t.teardown(() => rm(folder, { recursive: true }));
    for (const name of ["vmlinux", "initrd"]) await writeFile(join(folder, name), "");
    if (manifest !== undefined) await writeFile(join(folder, "manifest.json"), manifest);
    await t.throwsAsync(readGuest(folder), { code: "failed_precondition", message: wanted });
  });
}

test("a guest image is its kernel, its initial root and its command line", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-guest-"));
  t.teardown(() => rm(folder, { recursive: true }));
  for (const name of ["vmlinux", "initrd"]) await writeFile(join(folder, name), "");
  await writeFile(join(folder, "manifest.json"), '{"cmdline":"quiet panic=-1","other":1}');
  t.deepEqual(await readGuest(folder), {
    kernel: `${folder}/vmlinux`,
    initrd: `${folder}/initrd`,
    cmdline: "quiet panic=-1",
  });
});
