import test from "ava";
import { exitReason } from "../../../src/vmm/qemu/exit-reason.js";

test("QEMU's shutdown causes in words", (t) => {
  t.is(exitReason({ guest: true, reason: "guest-shutdown" }, ""), "guest shutdown");
  t.is(exitReason({ guest: true, reason: "guest-reset" }, ""), "guest panic");
  t.is(exitReason({ guest: true, reason: "guest-panic" }, ""), "guest panic");
  t.is(exitReason({ guest: false, reason: "host-signal" }, "noise"), "killed");
});

test("without a cause the last thing QEMU said is shown, made harmless", (t) => {
  t.is(exitReason(undefined, ""), "VMM died");
  t.is(exitReason(undefined, "first\nqemu: out of \u001b[31mmemory"), "VMM died: qemu: out of ?[31mmemory");
  t.is(exitReason({ guest: true, reason: "toString" }, "x".repeat(1000)).length, "VMM died: ".length + 200);
});
