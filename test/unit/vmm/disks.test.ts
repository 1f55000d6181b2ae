import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { checkSerial } from "../../../src/vmm/qemu/disks.js";
import { vmdkDescriptor } from "../../../src/vmm/qemu/vmdk.js";

test("a descriptor lists the extents in sectors, without a blank line before the first", (t) => {
  const text = vmdkDescriptor([
    { file: "a.0", bytes: 4096 },
    { file: "a.1", bytes: 1536 },
  ]);
  const lines = text.split("\n");
  t.is(lines[0], "# Disk DescriptorFile");
  t.deepEqual(lines.slice(-3), ['RW 8 FLAT "a.0" 0', 'RW 3 FLAT "a.1" 0', ""]);
  t.false(lines.slice(0, -1).includes(""));
});

test("serials are short and plain", (t) => {
  for (const good of ["a", "scratch", "img-0123456789abcdef"]) t.notThrows(() => checkSerial(good));
  for (const bad of ["", "A", "a.b", "a/b", "a b", "x".repeat(21), "a\n", "../x", 'a"']) {
    const err = t.throws(() => checkSerial(bad), undefined, bad);
    t.true(hasCode(err, "invalid_argument"));
  }
});
