import test from "ava";
import { parseResult, toVersion } from "../../../src/network/result.js";

const oldResult = {
  cniVersion: "0.3.1",
  interfaces: [
    { name: "br0", mac: "00:11:22:33:44:55" },
    { name: "eth0", mac: "00:11:22:33:44:66", sandbox: "/run/netns/x" },
  ],
  ips: [
    { version: "4", interface: 1, address: "10.1.0.5/16", gateway: "10.1.0.1" },
    { version: "6", interface: 1, address: "fd00::5/64" },
  ],
  routes: [{ dst: "0.0.0.0/0", gw: "10.1.0.1" }, { dst: "::/0" }],
  dns: { nameservers: ["10.1.0.1"] },
};

test("a result of 0.3.1 is read, and written as it was", (t) => {
  const result = parseResult(oldResult, "plugin");
  t.deepEqual(result.ips, [
    { interface: 1, address: "10.1.0.5/16", gateway: "10.1.0.1" },
    { interface: 1, address: "fd00::5/64" },
  ]);
  t.deepEqual(toVersion(result, "0.3.1"), {
    ...oldResult,
    dns: { nameservers: ["10.1.0.1"], search: [], options: [] },
  });
});

test("each version gets the fields that it knows", (t) => {
  const result = parseResult(
    {
      cniVersion: "1.1.0",
      interfaces: [{ name: "eth0", mtu: 1400, sandbox: "/x", pciID: "0000:00:01.0" }],
      ips: [{ address: "10.0.0.2/24", interface: 0 }],
      routes: [{ dst: "10.9.0.0/16", gw: "10.0.0.1", mtu: 1300, priority: 5 }],
    },
    "plugin",
  );
  const dns = { nameservers: [], search: [], options: [] };
  t.deepEqual(toVersion(result, "1.1.0"), {
    cniVersion: "1.1.0",
    interfaces: [{ name: "eth0", mtu: 1400, sandbox: "/x", pciID: "0000:00:01.0" }],
    ips: [{ address: "10.0.0.2/24", interface: 0 }],
    routes: [{ dst: "10.9.0.0/16", gw: "10.0.0.1", mtu: 1300, priority: 5 }],
    dns,
  });
  t.deepEqual(toVersion(result, "1.0.0"), {
    cniVersion: "1.0.0",
    interfaces: [{ name: "eth0", sandbox: "/x" }],
    ips: [{ address: "10.0.0.2/24", interface: 0 }],
    routes: [{ dst: "10.9.0.0/16", gw: "10.0.0.1" }],
    dns,
  });
  t.deepEqual(toVersion(result, "0.4.0").ips, [{ version: "4", address: "10.0.0.2/24", interface: 0 }]);
});

test("absent, null and empty fields are the same", (t) => {
  const result = parseResult(
    { interfaces: null, ips: [{ address: "10.0.0.2/24", gateway: "", interface: null }], dns: {} },
    "plugin",
  );
  t.deepEqual(result, {
    interfaces: [],
    ips: [{ address: "10.0.0.2/24" }],
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  });
});

const wrong: [string, unknown, RegExp][] = [
  ["no object", "text", /its answer is no CNI result/],
  [
    "an address without prefix",
    { ips: [{ address: "10.0.0.2" }] },
    /ips\.0\.address: is no address with prefix length/,
  ],
  ["a prefix too long", { ips: [{ address: "10.0.0.2/33" }] }, /prefix length/],
  ["a gateway that is none", { ips: [{ address: "10.0.0.2/24", gateway: "router; rm" }] }, /ips\.0\.gateway/],
  ["a route to nowhere", { routes: [{ dst: "default" }] }, /routes\.0\.dst/],
  [
    "an interface that is not there",
    { ips: [{ address: "10.0.0.2/24", interface: 1 }] },
    /on interface 1, there are 0/,
  ],
  ["an unknown version", { cniVersion: "7.0.0" }, /CNI version 7\.0\.0/],
  ["too many addresses", { ips: Array.from({ length: 65 }, () => ({ address: "10.0.0.2/24" })) }, /ips/],
];
for (const [what, value, message] of wrong) {
  test(`refused: ${what}`, (t) => {
    t.throws(() => parseResult(value, "CNI plugin x (ADD)"), { code: "internal", message });
    t.throws(() => parseResult(value, "CNI plugin x (ADD)"), { message: /^CNI plugin x \(ADD\): / });
  });
}
