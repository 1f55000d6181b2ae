import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { parseContainer } from "../../../src/cri/parse-container.js";
import { ContainerConfig, SecurityProfile_ProfileType as ProfileType } from "../../../src/gen/runtime/v1/api.js";
import { hasCode } from "../../../src/host/errors.js";
import { seccompOf } from "../../../src/pod/seccomp.js";

function security(securityContext: object) {
  const config = { metadata: { name: "c" }, image: { image: "i" }, linux: { securityContext } };
  return parseContainer(ContainerConfig.fromPartial(config)).security;
}
const profileType = ProfileType.RuntimeDefault;

test("unconfined and privileged have no filter", async (t) => {
  t.is(await seccompOf(security({}), "unconfined"), undefined);
  t.is(await seccompOf(security({ privileged: true, seccomp: { profileType } }), "runtime/default"), undefined);
});

test("the default profile denies mounting, namespaces and modules, and gives with a capability what it is for", async (t) => {
  const allowed = async (context: object) => {
    const profile = await seccompOf(security({ ...context, seccomp: { profileType } }), "unconfined");
    t.is(profile?.defaultAction, "SCMP_ACT_ERRNO");
    const rules = profile?.syscalls ?? [];
    return (name: string) =>
      rules.filter((rule) => rule.names.includes(name)).map((rule) => `${rule.action} ${rule.args.length}`);
  };
  const plain = await allowed({});
  for (const name of [
    "mount",
    "unshare",
    "setns",
    "init_module",
    "bpf",
    "keyctl",
    "add_key",
    "reboot",
    "io_uring_setup",
  ]) {
    t.deepEqual(plain(name), [], name);
  }
  for (const name of ["read", "openat", "execve", "futex", "epoll_pwait2", "rseq", "chroot"]) {
    t.deepEqual(plain(name), ["SCMP_ACT_ALLOW 0"], name);
  }
  t.deepEqual(plain("clone"), ["SCMP_ACT_ALLOW 1"]);
  t.deepEqual(plain("clone3"), ["SCMP_ACT_ERRNO 0"]);
  const admin = await allowed({ capabilities: { addCapabilities: ["SYS_ADMIN"], dropCapabilities: ["SYS_CHROOT"] } });
  t.deepEqual(admin("mount"), ["SCMP_ACT_ALLOW 0"]);
  t.deepEqual(admin("clone3"), ["SCMP_ACT_ALLOW 0"]);
  t.deepEqual(admin("chroot"), []);
});

test("a profile of the node is read as the OCI specification has it, and refused with the place of the fault", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-seccomp-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "p.json");
  const choose = () =>
    seccompOf(security({ seccomp: { profileType: ProfileType.Localhost, localhostRef: path } }), "unconfined");
  t.true(hasCode(await t.throwsAsync(choose()), "not_found"));
  const args = [{ index: 1, value: 2, op: "SCMP_CMP_EQ" }];
  const rule = { names: ["chmod"], action: "SCMP_ACT_ERRNO", errnoRet: 13, args };
  await writeFile(path, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] }));
  const profile = await choose();
  t.is(profile?.defaultAction, "SCMP_ACT_ALLOW");
  t.deepEqual(profile?.syscalls, [{ ...rule, args: [{ index: 1, value: 2n, valueTwo: 0n, op: "SCMP_CMP_EQ" }] }]);
  for (const [text, message] of [
    ["{", /wanted JSON/],
    ['{"defaultAction":"SCMP_ACT_NOTIFY"}', /defaultAction/],
    ['{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}', /syscalls\.0\.names/],
  ] as const) {
    await writeFile(path, text);
    const err = await t.throwsAsync(choose());
    t.true(hasCode(err, "invalid_argument"));
    t.regex(err?.message ?? "", message);
  }
});

test("where the client says nothing, the configuration decides; its explicit word wins", async (t) => {
  const unset = await seccompOf(security({}), "runtime/default");
  t.is(unset?.defaultAction, "SCMP_ACT_ERRNO");
  const unconfined = security({ seccomp: { profileType: ProfileType.Unconfined } });
  t.is(await seccompOf(unconfined, "runtime/default"), undefined);
});
