import test from "ava";
import { chooseAccelerator, kvmObstacle } from "../../../src/vmm/qemu/accelerator.js";

const cpuinfo = (flags: string) => `processor\t: 0\nflags\t\t: fpu vme ${flags} sse\nbugs\t\t: svm_bug\n`;

test("KVM needs a CPU with virtualisation, however well /dev/kvm opens", (t) => {
  t.is(kvmObstacle(cpuinfo("vmx"), undefined), undefined);
  t.is(kvmObstacle(cpuinfo("svm"), undefined), undefined);
  t.regex(kvmObstacle(cpuinfo("hypervisor"), undefined) ?? "", /neither vmx nor svm/);
  t.regex(kvmObstacle("", undefined) ?? "", /neither vmx nor svm/);
  t.is(kvmObstacle(cpuinfo("vmx"), "/dev/kvm cannot be opened: x"), "/dev/kvm cannot be opened: x");
});

test("what the configuration demands is not replaced in silence", async (t) => {
  t.like(await chooseAccelerator("tcg"), { accelerator: "tcg", reason: "TCG is set in the configuration" });
  const auto = await chooseAccelerator("auto");
  if (auto.accelerator === "kvm") t.is((await chooseAccelerator("kvm")).accelerator, "kvm");
  else await t.throwsAsync(chooseAccelerator("kvm"), { message: /KVM is set in the configuration, but/ });
});
