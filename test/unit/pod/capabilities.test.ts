import test from "ava";
import { capabilitiesOf, heldCapabilities, unknownCapability } from "../../../src/pod/capabilities.js";
import type { SecurityConfig } from "../../../src/pod/types.js";

function security(part: Partial<SecurityConfig>): SecurityConfig {
  return {
    privileged: false,
    addCapabilities: [],
    dropCapabilities: [],
    addAmbientCapabilities: [],
    runAsUsername: "",
    supplementalGroups: [],
    strictGroups: false,
    readonlyRootfs: false,
    noNewPrivileges: false,
    maskedPaths: [],
    readonlyPaths: [],
    pidMode: "container",
    pidTarget: "",
    apparmor: { type: "unconfined" },
    seccomp: { type: "unconfined" },
    ...part,
  };
}

test("the default set is what other runtimes give: fourteen, without SYS_ADMIN", (t) => {
  const { granted, ambient } = capabilitiesOf(security({}));
  t.is(granted.length, 14);
  t.true(granted.includes("CAP_NET_BIND_SERVICE"));
  t.false(granted.includes("CAP_SYS_ADMIN"));
  t.deepEqual(ambient, []);
});

test("add, drop and ALL", (t) => {
  t.true(capabilitiesOf(security({ addCapabilities: ["CAP_SYS_TIME"] })).granted.includes("CAP_SYS_TIME"));
  t.false(capabilitiesOf(security({ dropCapabilities: ["CAP_KILL"] })).granted.includes("CAP_KILL"));
  t.deepEqual(capabilitiesOf(security({ dropCapabilities: ["ALL"] })).granted, []);
  t.deepEqual(capabilitiesOf(security({ dropCapabilities: ["ALL"], addCapabilities: ["CAP_CHOWN"] })).granted, [
    "CAP_CHOWN",
  ]);
  const all = capabilitiesOf(security({ addCapabilities: ["ALL"], dropCapabilities: ["CAP_SYS_ADMIN"] })).granted;
  t.is(all.length, 40);
  t.false(all.includes("CAP_SYS_ADMIN"));
  t.is(capabilitiesOf(security({ privileged: true, dropCapabilities: ["ALL"] })).granted.length, 41);
});

test("an ambient capability is granted too", (t) => {
  const { granted, ambient } = capabilitiesOf(
    security({ dropCapabilities: ["ALL"], addAmbientCapabilities: ["CAP_NET_RAW"] }),
  );
  t.deepEqual([granted, ambient], [["CAP_NET_RAW"], ["CAP_NET_RAW"]]);
});

test("a name that no kernel knows is found", (t) => {
  t.is(unknownCapability(security({ addCapabilities: ["CAP_CHOWN", "CAP_FLY"] })), "CAP_FLY");
  t.is(unknownCapability(security({ dropCapabilities: ["ALL"] })), undefined);
});

test("what this process holds itself, by the numbers of the kernel", (t) => {
  t.deepEqual(
    [...heldCapabilities("Name:\tx\nCapInh:\tff\nCapPrm:\t0000000000000021\nCapEff:\t0\n")],
    ["CAP_CHOWN", "CAP_KILL"],
  );
  t.is(heldCapabilities("CapPrm:\t000001ffffffffff\n").size, 41);
  t.is(heldCapabilities("").size, 0);
});
