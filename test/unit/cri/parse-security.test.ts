/** User namespaces, sysctls, AppArmor: what of CRI's security context is taken, and what refused. */
import test from "ava";
import { parseMounts } from "../../../src/cri/parse-mounts.js";
import { parseAppArmor } from "../../../src/cri/parse-profiles.js";
import { parseSysctls } from "../../../src/cri/parse-sysctls.js";
import { parseUserNamespace } from "../../../src/cri/parse-userns.js";
import {
  type DeepPartial,
  Mount,
  NamespaceMode,
  SecurityProfile_ProfileType as ProfileType,
  UserNamespace,
} from "../../../src/gen/runtime/v1/api.js";
import { PodvmError } from "../../../src/host/errors.js";

const userns = (part: DeepPartial<UserNamespace>) => parseUserNamespace(UserNamespace.fromPartial(part));
const mapping = { containerId: 0, hostId: 1000, length: 100_000 };

test("a user namespace is one range of uids and one of gids from 0 on; NODE is none", (t) => {
  t.deepEqual(userns({ uids: [mapping], gids: [{ ...mapping, hostId: 5000 }] }), {
    uidBase: 1000,
    gidBase: 5000,
    size: 100_000,
  });
  t.is(userns({ mode: NamespaceMode.NODE }), undefined);
  t.is(parseUserNamespace(undefined), undefined);
});

const usernsFaults: [string, DeepPartial<UserNamespace>, RegExp][] = [
  ["mode CONTAINER", { mode: NamespaceMode.CONTAINER }, /mode: wanted POD or NODE, found "CONTAINER"/],
  ["mode TARGET", { mode: NamespaceMode.TARGET }, /mode: wanted POD or NODE, found "TARGET"/],
  ["mode NODE with mappings", { mode: NamespaceMode.NODE, uids: [mapping] }, /none with mode NODE/],
  ["no mapping", {}, /uids: wanted exactly one mapping, found "0"/],
  ["two mappings", { uids: [mapping, mapping], gids: [mapping] }, /uids: wanted exactly one mapping, found "2"/],
  ["uids without gids", { uids: [mapping] }, /gids: wanted exactly one/],
  ["id 0 not mapped", { uids: [{ ...mapping, containerId: 1 }], gids: [mapping] }, /container_id: wanted 0, found 1/],
  ["the guest's root mapped", { uids: [{ ...mapping, hostId: 0 }], gids: [mapping] }, /host_id/],
  ["different lengths", { uids: [mapping], gids: [{ ...mapping, length: 5 }] }, /as long as that of the uids/],
  ["length 0", { uids: [{ ...mapping, length: 0 }], gids: [mapping] }, /length/],
  ["ids beyond the last", { uids: [{ ...mapping, hostId: 4_294_900_000 }], gids: [mapping] }, /host_id/],
];
for (const [what, part, message] of usernsFaults) {
  test(`a user namespace with ${what} is refused`, (t) => {
    const err = t.throws(() => userns(part), { instanceOf: PodvmError });
    t.is(err?.code, "invalid_argument");
    t.regex(err?.message ?? "", message);
  });
}

test("the mapping of a mount has both sides or none", (t) => {
  const mount = (part: DeepPartial<Mount>) =>
    parseMounts([Mount.fromPartial({ hostPath: "/h", containerPath: "/c", ...part })])[0];
  t.is(mount({})?.idMapping, undefined);
  t.deepEqual(mount({ uidMappings: [mapping], gidMappings: [mapping] })?.idMapping, {
    uidBase: 1000,
    gidBase: 1000,
    size: 100_000,
  });
  t.regex(t.throws(() => mount({ uidMappings: [mapping] }))?.message ?? "", /gidMappings: wanted exactly one/);
});

test("sysctls of namespaces and the guest's limits are taken, with dots or slashes", (t) => {
  const taken = {
    "kernel.shm_rmid_forced": "1",
    "fs.mqueue.msg_max": "100",
    "net.ipv4.conf.eth0/1.rp_filter": "2",
    "net/core/somaxconn": "9",
    "kernel.sem": "1 2 3 4",
    "vm.max_map_count": "262144",
  };
  t.deepEqual(parseSysctls(taken), taken);
});

for (const name of [
  "kernel.core_pattern",
  "kernel.panic",
  "kernel.modprobe",
  "kernel.shm.x",
  "vm.drop_caches",
  "kernel.hostname",
]) {
  test(`sysctl ${name} is none that a pod may set`, (t) => {
    const err = t.throws(() => parseSysctls({ [name]: "1" }), { instanceOf: PodvmError });
    t.is(err?.code, "failed_precondition");
    t.true(err?.message.includes(name));
  });
}

for (const name of ["", "net", "net..ipv4", "net.ipv4.//.x", "../net.ipv4", "net.a b", "/net/ipv4", "net.ipv4.a\0"]) {
  test(`sysctl ${JSON.stringify(name)} is malformed`, (t) => {
    t.is(t.throws(() => parseSysctls({ [name]: "1" }), { instanceOf: PodvmError })?.code, "invalid_argument");
  });
}

test("AppArmor: the field wins over the deprecated string; RuntimeDefault is no profile", (t) => {
  const localhost = (localhostRef: string) => ({ profileType: ProfileType.Localhost, localhostRef });
  t.deepEqual(parseAppArmor(undefined, ""), { type: "unconfined" });
  t.deepEqual(parseAppArmor(undefined, "runtime/default"), { type: "unconfined" });
  t.deepEqual(parseAppArmor(undefined, "localhost/old"), { type: "localhost", profile: "old" });
  t.deepEqual(parseAppArmor(localhost("localhost/new"), "localhost/old"), { type: "localhost", profile: "new" });
  t.deepEqual(parseAppArmor(localhost("/usr/bin/x"), ""), { type: "localhost", profile: "/usr/bin/x" });
  const none = { profileType: ProfileType.Unconfined, localhostRef: "" };
  t.deepEqual(parseAppArmor(none, "localhost/old"), { type: "unconfined" });
  t.throws(() => parseAppArmor(localhost(""), ""), { instanceOf: PodvmError });
  t.throws(() => parseAppArmor(localhost("a\nb"), ""), { instanceOf: PodvmError });
});
