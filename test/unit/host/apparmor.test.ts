/** The kernel's folder of loaded profiles, as security/apparmor/apparmorfs.c lays it out. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { loadedPolicy, MAX_POLICY_BYTES } from "../../../src/host/apparmor.js";
import { PodvmError } from "../../../src/host/errors.js";

async function securityfs(t: ExecutionContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "podvm-apparmor-"));
  t.teardown(() => rm(root, { recursive: true, force: true }));
  return root;
}

async function profile(root: string, folder: string, name: string, policy?: Buffer): Promise<void> {
  const dir = join(root, "apparmor/policy/profiles", folder);
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, "name"), `${name}\n`);
  if (!policy) return;
  const raw = join(root, "apparmor/policy/raw_data", folder);
  await mkdir(raw, { recursive: true });
  await writeFile(join(raw, "raw_data"), policy);
  await symlink(`../../raw_data/${folder}/raw_data`, join(dir, "raw_data"));
}

test("the policy of the profile with exactly this name", async (t) => {
  const root = await securityfs(t);
  await profile(root, "deny-write.1", "deny-write", Buffer.from("one"));
  await profile(root, "deny-write-more.2", "deny-write-more", Buffer.from("two"));
  await profile(root, "usr.bin.man.3", "/usr/bin/man", Buffer.from([0, 255, 0]));
  t.is((await loadedPolicy("deny-write", root)).toString(), "one");
  t.is((await loadedPolicy("deny-write-more", root)).toString(), "two");
  t.deepEqual([...(await loadedPolicy("/usr/bin/man", root))], [0, 255, 0]);
  const err = await t.throwsAsync(loadedPolicy("deny", root), { instanceOf: PodvmError });
  t.is(err?.code, "not_found");
  t.regex(err?.message ?? "", /"deny" is not loaded on this node/);
});

test("a kernel without AppArmor, or one that keeps no policies, is said to be so", async (t) => {
  const root = await securityfs(t);
  const none = await t.throwsAsync(loadedPolicy("p", root), { instanceOf: PodvmError });
  t.is(none?.code, "failed_precondition");
  t.regex(none?.message ?? "", /no AppArmor/);
  await profile(root, "p.1", "p");
  const lost = await t.throwsAsync(loadedPolicy("p", root), { instanceOf: PodvmError });
  t.is(lost?.code, "failed_precondition");
  t.regex(lost?.message ?? "", /export_binary=1/);
  await profile(root, "huge.2", "huge", Buffer.alloc(MAX_POLICY_BYTES + 1));
  t.regex((await t.throwsAsync(loadedPolicy("huge", root)))?.message ?? "", /more than/);
});
