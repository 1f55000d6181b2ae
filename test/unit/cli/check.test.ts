import test from "ava";
import { formatFindings } from "../../../src/cli/check/finding.js";
import { cpuFinding, kvmFinding } from "../../../src/cli/check/hypervisor.js";
import { configRelaxations } from "../../../src/cli/check/node-state.js";
import { parseConfig } from "../../../src/config/config.js";

const cpuinfo = (flags: string) => `processor\t: 0\nvendor_id\t: X\nflags\t\t: fpu ${flags} sse\n`;

test("hardware virtualisation by the CPU's flags", (t) => {
  t.is(cpuFinding(cpuinfo("vmx")).state, "ok");
  t.is(cpuFinding(cpuinfo("svm")).found, "AMD-V (svm)");
  t.like(cpuFinding(cpuinfo("hypervisor")), { state: "warn" });
  t.regex(cpuFinding(cpuinfo("hypervisor")).advice ?? "", /nested virtualisation/);
  t.regex(cpuFinding(cpuinfo("")).advice ?? "", /firmware/);
  t.is(cpuFinding(cpuinfo("vmxnet")).state, "warn", "a flag is a whole word");
});

test("a /dev/kvm that opens is not yet usable", (t) => {
  t.is(kvmFinding(cpuinfo("vmx"), undefined).state, "ok");
  t.like(kvmFinding(cpuinfo(""), undefined), { state: "warn" });
  t.regex(kvmFinding(cpuinfo(""), undefined).found, /opens, but .*neither vmx nor svm/);
  t.regex(kvmFinding(cpuinfo("vmx"), "ENOENT").found, /does not open: ENOENT/);
});

test("what the configuration gives up of isolation is shown", (t) => {
  const found = (text: string) => configRelaxations(parseConfig(text)).filter((one) => one.state === "warn");
  t.deepEqual(found(""), []);
  t.regex(
    found("[image.registries.'r.example.com']\ninsecure_tls = true")[0]?.found ?? "",
    /certificates are not verified/,
  );
  t.regex(found("[image.registries.'r.example.com']\nplain_http = true")[0]?.found ?? "", /plain HTTP/);
  t.deepEqual(found("[image.registries.'localhost:5000']\nplain_http = true"), []);
  t.regex(found("socket_mode = '0666'")[0]?.found ?? "", /every user/);
});

test("findings as text: aligned, with advice below", (t) => {
  const text = formatFindings([
    { name: "a", state: "ok", found: "fine" },
    { name: "long name", state: "fail", found: "broken", advice: "mend it" },
  ]);
  t.deepEqual(text.split("\n"), ["ok    a          fine", "FAIL  long name  broken", "                 → mend it"]);
});
