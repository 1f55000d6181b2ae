import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { createVmmRegistry } from "../../../src/vmm/registry.js";
import type { Vmm } from "../../../src/vmm/vmm.js";

const backend = (name: string) => ({ name }) as Vmm;
const registry = createVmmRegistry([backend("qemu"), backend("firecracker")]);

test("the default handler, its aliases and Kata's names lead to the first backend", (t) => {
  for (const handler of ["", "podvm", "podvm-qemu", "kata", "kata-qemu", "kata-clh"])
    t.is(registry.forHandler(handler).name, "qemu");
});

test("a backend can be asked for by its handler", (t) => {
  t.is(registry.forHandler("podvm-firecracker").name, "firecracker");
  t.deepEqual(registry.handlers(), ["", "podvm", "podvm-qemu", "podvm-firecracker"]);
});

test("an unknown handler is not found, and the error lists those there are", (t) => {
  const err = t.throws(() => registry.forHandler("runc"));
  t.true(hasCode(err, "not_found"));
  t.regex(err?.message ?? "", /"runc".*"podvm-qemu", "podvm-firecracker", "kata\*"/);
});

test("a document's backend that is no more is named", (t) => {
  t.is(registry.byName("firecracker").name, "firecracker");
  t.regex(t.throws(() => registry.byName("xen"))?.message ?? "", /"xen".*qemu, firecracker/);
});

test("the backend without a VM has a handler of its own and is never the default", (t) => {
  const both = createVmmRegistry([backend("qemu")], backend("host"));
  t.is(both.forHandler("host").name, "host");
  t.is(both.forHandler("").name, "qemu");
  t.is(both.onHost().name, "host");
  t.deepEqual(both.handlers(), ["", "podvm", "podvm-qemu", "host"]);
  t.true(
    hasCode(
      t.throws(() => registry.forHandler("host")),
      "not_found",
    ),
  );
  t.true(
    hasCode(
      t.throws(() => registry.onHost()),
      "failed_precondition",
    ),
  );
});
