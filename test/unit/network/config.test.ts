import test from "ava";
import { parseConfig } from "../../../src/network/config.js";
import { defaultConflist } from "../../../src/network/default-conflist.js";

const list = (value: unknown) => parseConfig("/etc/cni/net.d/10-net.conflist", JSON.stringify(value));
const single = (value: unknown) => parseConfig("/etc/cni/net.d/10-net.conf", JSON.stringify(value));

test("a list keeps every key of its plugins", (t) => {
  const plugin = { type: "bridge", bridge: "b0", capabilities: { portMappings: true }, ipam: { type: "host-local" } };
  t.deepEqual(list({ cniVersion: "0.4.0", name: "net", plugins: [plugin] }), {
    name: "net",
    cniVersion: "0.4.0",
    plugins: [plugin],
  });
});

test("a single plugin is a list of one", (t) => {
  t.deepEqual(single({ cniVersion: "1.0.0", name: "net", type: "ptp", mtu: 1400 }), {
    name: "net",
    cniVersion: "1.0.0",
    plugins: [{ type: "ptp", mtu: 1400 }],
  });
});

test("of several versions the newest known one is taken", (t) => {
  const plugins = [{ type: "bridge" }];
  t.is(
    list({ cniVersion: "1.0.0", cniVersions: ["0.4.0", "1.1.0", "9.0.0"], name: "net", plugins }).cniVersion,
    "1.1.0",
  );
  t.is(list({ cniVersions: ["0.3.1"], name: "net", plugins }).cniVersion, "0.3.1");
});

const wrong: [string, () => unknown, RegExp][] = [
  ["not JSON", () => parseConfig("a.conflist", "{"), /^CNI configuration a\.conflist: not JSON: /],
  ["no object", () => list([]), /wanted a JSON object/],
  ["no name", () => list({ cniVersion: "1.0.0", plugins: [{ type: "bridge" }] }), /10-net\.conflist: name: /],
  ["no plugins in a list", () => list({ cniVersion: "1.0.0", name: "net" }), /has no "plugins".*\.conf$/],
  [
    "an empty list",
    () => list({ cniVersion: "1.0.0", name: "net", plugins: [] }),
    /plugins: wanted at least one plugin/,
  ],
  [
    "plugins in a single one",
    () => single({ cniVersion: "1.0.0", name: "net", plugins: [] }),
    /is a file named \.conflist/,
  ],
  [
    "a path as type",
    () => list({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "../sh" }] }),
    /plugins\.0\.type: wanted/,
  ],
  ["no type", () => single({ cniVersion: "1.0.0", name: "net" }), /type: /],
  [
    "no version",
    () => list({ name: "net", plugins: [{ type: "bridge" }] }),
    /has no "cniVersion"; wanted one of 0\.3\.0, 0\.3\.1/,
  ],
  [
    "an old version",
    () => list({ cniVersion: "0.2.0", name: "net", plugins: [{ type: "bridge" }] }),
    /"cniVersion" is 0\.2\.0; wanted/,
  ],
  [
    "a capability that is no flag",
    () =>
      list({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "portmap", capabilities: { portMappings: "yes" } }] }),
    /plugins\.0\.capabilities\.portMappings: wanted true or false/,
  ],
  ["too large", () => parseConfig("a.conf", " ".repeat((1 << 20) + 1)), /larger than 1048576 bytes/],
];
for (const [what, parse, message] of wrong) {
  test(`refused, with the file and what was wanted: ${what}`, (t) => {
    t.throws(parse, { code: "invalid_argument", message });
  });
}

test("the default network is a valid configuration, dual stack where asked", (t) => {
  const text = defaultConflist({ subnet: "10.88.0.0/16", subnet6: "fd00:88::/64", bridge: "podvm0" });
  const { name, plugins } = parseConfig("10-podvm.conflist", text);
  t.is(name, "podvm");
  t.deepEqual(
    plugins.map((plugin) => plugin.type),
    ["bridge", "portmap", "firewall"],
  );
  t.like(plugins[0], {
    ipam: {
      ranges: [[{ subnet: "10.88.0.0/16" }], [{ subnet: "fd00:88::/64" }]],
      routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
    },
  });
  t.like(JSON.parse(defaultConflist({ subnet: "10.88.0.0/16", bridge: "podvm0" })).plugins[0].ipam, {
    ranges: [[{ subnet: "10.88.0.0/16" }]],
  });
});

test("the default network refuses ranges and names that the plugins would refuse later", (t) => {
  const refused = { code: "invalid_argument" };
  t.throws(() => defaultConflist({ subnet: "10.88.0.0", bridge: "podvm0" }), refused);
  t.throws(() => defaultConflist({ subnet: "fd00::/64", bridge: "podvm0" }), refused);
  t.throws(() => defaultConflist({ subnet: "10.88.0.0/33", bridge: "podvm0" }), refused);
  t.throws(() => defaultConflist({ subnet: "10.88.0.0/16", bridge: "a-name-too-long-for-linux" }), refused);
});
