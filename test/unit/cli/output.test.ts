import test from "ava";
import { vmInfo } from "../../../src/cli/list-pods.js";
import { age, printable, shortId, size, table } from "../../../src/cli/output.js";
import { assetFoldersIn } from "../../../src/cli/prune-bundle.js";
import { summary } from "../../../src/cli/pull.js";
import { pick } from "../../../src/cli/remove-pods.js";
import { PodvmError } from "../../../src/host/errors.js";

test("sizes, ages, ids", (t) => {
  t.deepEqual([size(0), size(1536), size(200 << 20), size(3 * 2 ** 40)], ["0 B", "1.5 KiB", "200 MiB", "3.0 TiB"]);
  const now = 1_000_000_000_000;
  const ago = (seconds: number) => age(BigInt(now - seconds * 1000) * 1_000_000n, now);
  t.deepEqual([ago(5), ago(300), ago(7200), ago(86400 * 3), ago(-5)], ["5s", "5m", "2h", "3d", "0s"]);
  t.is(shortId(`sha256:${"ab".repeat(32)}`), "abababababab");
});

test("a table is aligned, and a name cannot rewrite the screen", (t) => {
  t.is(table(["A", "B"], [["x\u001b[2J", "y"]]), "A      B\nx?[2J  y\n");
  t.is(printable("a\u202eb\nc"), "a?b?c");
});

const item = (name: string, state: string, doneBytes: number, totalBytes: number) => {
  return { item: name, state, doneBytes: BigInt(doneBytes), totalBytes: BigInt(totalBytes) };
};

test("a pull's progress in one line", (t) => {
  t.is(summary([item("manifest", "done", 1, 1)]), "resolving");
  const layers = [
    item("manifest", "done", 1, 1),
    item("sha256:a", "done", 1024, 1024),
    item("sha256:b", "downloading", 512, 1024),
  ];
  t.is(summary(layers), "1/2 layers, 1.5 KiB of 2.0 KiB");
  t.is(
    summary([item("sha256:a", "unpacking", 1024, 1024), item("sha256:b", "exists", 0, 0)]),
    "1/2 layers, 1.0 KiB of 1.0 KiB, unpacking",
  );
});

const pod = (id: string, namespace: string, name: string) => ({
  id,
  metadata: { name, namespace, uid: "u", attempt: 0 },
});

test("a pod is meant by id, by its beginning, by name, by namespace and name", (t) => {
  const pods = [pod("abcdef01", "default", "web"), pod("abcd9999", "prod", "web"), pod("ffff0000", "default", "db")];
  t.is(pick(pods, "ffff").id, "ffff0000");
  t.is(pick(pods, "db").id, "ffff0000");
  t.is(pick(pods, "prod/web").id, "abcd9999");
  const code = (wanted: string) => t.throws(() => pick(pods, wanted), { instanceOf: PodvmError })?.code;
  t.is(code("web"), "invalid_argument");
  t.is(code("abcd"), "invalid_argument");
  t.is(code("nope"), "not_found");
  t.is(code("fff"), "not_found", "too short to mean an id");
});

test("the VM's part of a verbose status, also when it is something else", (t) => {
  t.deepEqual(vmInfo({ info: '{"pid": 42, "vmm": "qemu", "vcpus": 0, "more": 1}' }), { vmPid: 42, vmm: "qemu" });
  t.deepEqual(vmInfo({}), {});
  t.deepEqual(vmInfo({ info: "no json" }), {});
});

test("asset folders are found in a VMM's command line", (t) => {
  const a = "/var/lib/podvm/assets/bundle/0123456789abcdef";
  const g = "/x y/guest/fedcba9876543210";
  t.deepEqual(
    assetFoldersIn(
      `${a}/bin/qemu-system-x86_64\0-L\0${a}/share/qemu\0-kernel\0${g}/vmlinux\0-drive\0file=${a}/z,if=none`,
    ),
    [a, a, g, a],
  );
  t.deepEqual(assetFoldersIn("/a/bundle/0123456789abcdef0\0/a/bundle/current"), []);
});
