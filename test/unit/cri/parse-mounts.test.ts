/** CRI mounts and devices at the edge. */
import test from "ava";
import { parseDevices, parseMounts } from "../../../src/cri/parse-mounts.js";
import { type DeepPartial, Device, Mount } from "../../../src/gen/runtime/v1/api.js";

const mount = (part: DeepPartial<Mount>) =>
  parseMounts([Mount.fromPartial({ hostPath: "/h", containerPath: "/c", ...part })])[0];

test("a mount with its options, once each; others are refused by name", (t) => {
  t.deepEqual(mount({ mountOptions: ["noexec", "nodev", "noexec"] })?.options, ["noexec", "nodev"]);
  for (const option of ["suid", "noexec,suid", "", "bind"]) {
    t.throws(() => mount({ mountOptions: [option] }), { message: /mount_options/ }, option);
  }
  t.throws(() => mount({ mountOptions: Array.from({ length: 17 }, () => "nodev") }), { message: /at most 16/ });
});

test("paths in the container are plain: no doubled slashes, none at the end, never the root", (t) => {
  t.is(mount({ containerPath: "/a//b/" })?.containerPath, "/a/b");
  for (const containerPath of ["/", "//", "a", "/a/../b", ""]) {
    t.throws(() => mount({ containerPath }), { code: "invalid_argument" }, containerPath);
  }
});

test("an image or a host path, not both; images are read-only", (t) => {
  const image = mount({ hostPath: "", image: { image: "busybox" }, imageSubPath: "etc" });
  t.like(image, { readonly: true, hostPath: "", image: { reference: "busybox", subPath: "etc" } });
  t.throws(() => mount({ image: { image: "busybox" } }), { code: "invalid_argument" });
  t.throws(() => mount({ hostPath: "" }), { code: "invalid_argument" });
  t.throws(() => mount({ hostPath: "", image: { image: "a" }, imageSubPath: "../x" }), { code: "invalid_argument" });
});

test("recursive read-only wants readonly and private propagation", (t) => {
  t.true(mount({ readonly: true, recursiveReadOnly: true })?.recursiveReadonly);
  t.throws(() => mount({ recursiveReadOnly: true }), { code: "invalid_argument" });
  t.throws(() => mount({ readonly: true, recursiveReadOnly: true, propagation: 1 }), { code: "invalid_argument" });
});

test("devices", (t) => {
  const device = (part: DeepPartial<Device>) =>
    parseDevices([Device.fromPartial({ hostPath: "/dev/x", containerPath: "/dev/y", permissions: "rw", ...part })]);
  t.deepEqual(device({}), [{ hostPath: "/dev/x", containerPath: "/dev/y", permissions: "rw" }]);
  for (const bad of [{ permissions: "" }, { permissions: "x" }, { hostPath: "dev" }, { containerPath: "/../y" }]) {
    t.throws(() => device(bad), { code: "invalid_argument" });
  }
});
