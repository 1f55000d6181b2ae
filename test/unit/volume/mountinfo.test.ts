import test from "ava";
import { aliases, below, mountOf, parseMountInfo } from "../../../src/volume/mountinfo.js";

const text = String.raw`22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/mem rw - tmpfs tmpfs rw,size=2048k
31 22 8:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/disk/in\040ner /var/lib/kubelet/pods/u/volume-subpaths/disk/c/0 rw - ext4 /dev/sda1 rw
32 22 0:40 /a /var/lib/kubelet/pods/u/volume-subpaths/mem/c/1 rw - tmpfs tmpfs rw
33 22 8:1 / /mnt/other rw - ext4 /dev/sda1 rw
nonsense
34 22 0:50 / /odd\134name rw master:1 propagate_from:2 - tmpfs x rw
`;
const mounts = parseMountInfo(text);

test("lines, with octal escapes and optional fields; what is none is left out", (t) => {
  t.is(mounts.length, 6);
  t.is(mounts[2]?.root, "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/disk/in ner");
  t.deepEqual(mounts[5], {
    device: "0:50",
    root: "/",
    mountPoint: "/odd\\name",
    fsType: "tmpfs",
    propagation: "slave",
  });
  t.deepEqual([mounts[0]?.propagation, mounts[1]?.propagation], ["shared", "private"]);
});

test("a bound sub-path is found in the volume that it came from", (t) => {
  const volumes = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir";
  const subpaths = "/var/lib/kubelet/pods/u/volume-subpaths";
  t.true(aliases(`${subpaths}/disk/c/0`, mounts).includes(`${volumes}/disk/in ner`));
  t.deepEqual(aliases(`${subpaths}/mem/c/1`, mounts), [`${volumes}/mem/a`]);
  t.deepEqual(aliases(`${subpaths}/mem/c/1/deep`, mounts), [`${volumes}/mem/a/deep`]);
});

test("the mount that a path lies on is the innermost and the last", (t) => {
  t.is(mountOf("/etc", mounts)?.mountPoint, "/");
  t.is(mountOf("/mnt/other/x", mounts)?.mountPoint, "/mnt/other");
  t.is(mountOf("/mnt/otherwise", mounts)?.mountPoint, "/");
  const xfs = { device: "0:60", root: "/", mountPoint: "/mnt/other", fsType: "xfs", propagation: "private" as const };
  const over = [...mounts, xfs];
  t.is(mountOf("/mnt/other/x", over)?.fsType, "xfs");
});

test("below", (t) => {
  t.is(below("/a/b", "/a"), "b");
  t.is(below("/a", "/a"), "");
  t.is(below("/ab", "/a"), undefined);
  t.is(below("/a", "/"), "a");
});
