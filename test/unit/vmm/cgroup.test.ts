import test from "ava";
import { checkCgroupName, expandCgroupParent, findHierarchies } from "../../../src/host/cgroup.js";
import { hasCode } from "../../../src/host/errors.js";

test("kubelet's cgroup_parent of either driver becomes a path", (t) => {
  const cases = {
    "/kubepods/burstable/pod1234": "/kubepods/burstable/pod1234",
    "/kubepods/besteffort/pod1/": "/kubepods/besteffort/pod1",
    "kubepods-burstable-pod12_34.slice": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice",
    "kubepods.slice": "/kubepods.slice",
    "/a.slice/a-b.slice": "/a.slice/a-b.slice",
  };
  for (const [parent, path] of Object.entries(cases)) t.is(expandCgroupParent(parent), path);
});

test("a cgroup_parent that could leave the hierarchy is refused", (t) => {
  const bad = [
    "",
    "/",
    "kubepods",
    "a/b",
    "/a/../b",
    "/..",
    "/a//b",
    "/a/./b",
    "-a.slice",
    "a--b.slice",
    ".slice",
    "/a\nb",
    "/a\0",
    `/${"x".repeat(256)}`,
  ];
  for (const parent of bad)
    t.true(
      hasCode(
        t.throws(() => expandCgroupParent(parent)),
        "invalid_argument",
      ),
      parent,
    );
  t.true(
    hasCode(
      t.throws(() => checkCgroupName("a")),
      "invalid_argument",
    ),
  );
});

test("hierarchies are found in v1, hybrid and v2 mount tables", async (t) => {
  const v1 = [
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct",
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd",
    "41 31 0:29 /podX /elsewhere rw - cgroup cgroup rw,cpu,cpuacct",
  ].join("\n");
  t.deepEqual(await findHierarchies(v1), [
    { mountPoint: "/sys/fs/cgroup/cpu,cpuacct", version: 1, controllers: ["cpu", "cpuacct"] },
    { mountPoint: "/sys/fs/cgroup/systemd", version: 1, controllers: ["name=systemd"] },
  ]);
  const hybrid = `${v1}\n42 31 0:38 / /podvm-none/unified rw - cgroup2 cgroup2 rw`;
  t.deepEqual((await findHierarchies(hybrid)).at(-1), {
    mountPoint: "/podvm-none/unified",
    version: 2,
    controllers: [],
  });
  await t.throwsAsync(findHierarchies("1 1 0:1 / / rw - ext4 /dev/vda rw"), {
    message: /no cgroup hierarchy is mounted/,
  });
});
