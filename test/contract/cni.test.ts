/** Pod networks with the real CNI plugins, iproute2 and iptables of the runtime bundle. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { sleep } from "../../src/host/deadline.js";
import { newId } from "../../src/host/ids.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import { createNetwork, type NetworkOptions } from "../../src/network/create.js";
import { defaultConflist } from "../../src/network/default-conflist.js";
import type { Network, NetworkRequest, PodNetwork } from "../../src/network/network.js";
import { redirect, tapName } from "../../src/network/tap.js";
import { until } from "../support/until.js";
import { ask, askFrom, bundle, folder, freePort, greeter, onNode, processes, serveIn, traces } from "./cni-host.js";

const here = import.meta.url;
const deadline = 60_000;
const uid = 61_234;

interface Rig {
  network: Network;
  options: NetworkOptions;
  confFile: string;
  leaseDir: string;
  bridge: string;
  gateway: string;
}

/** A Network of its own: random bridge and subnets, everything removed after the test. */
async function rig(
  t: ExecutionContext,
  change: (conflist: { plugins: Record<string, unknown>[] }) => void = () => {},
): Promise<Rig> {
  const dir = folder(t);
  const tag = randomBytes(4).toString("hex");
  const bridge = `pv${tag}`;
  const [a, b] = randomBytes(2);
  const leaseDir = join(dir, "leases");
  await mkdir(leaseDir);
  const confDir = join(dir, "net.d");
  await mkdir(confDir);
  const conflist = JSON.parse(
    defaultConflist({
      subnet: `10.${a}.${b}.0/24`,
      subnet6: `fd00:${tag.slice(0, 4)}:${tag.slice(4)}::/64`,
      bridge,
      name: `net-${tag}`,
      leaseDir,
    }),
  );
  change(conflist);
  const confFile = join(confDir, "10-podvm.conflist");
  await writeFile(confFile, JSON.stringify(conflist));
  const options: NetworkOptions = {
    confDir,
    binDirs: [join(dir, "cni")],
    stateDir: join(dir, "state"),
    assets: { bundle: bundle() },
    logger: silentLogger,
  };
  const network = createNetwork(options);
  await network.open();
  t.teardown(async () => {
    network.close();
    for (const id of await network.list()) await network.teardown(id, deadline);
    await run(["ip", "link", "delete", bridge], { okCodes: [0, 1] });
  });
  return { network, options, confFile, leaseDir, bridge, gateway: `10.${a}.${b}.1` };
}

function pod(name: string, more: Partial<NetworkRequest> = {}): NetworkRequest {
  return {
    podId: newId(),
    podNamespace: "default",
    podName: name,
    podUid: `uid-${name}`,
    portMappings: [],
    uid,
    ...more,
  };
}

/** A process of its own, to be killed, that makes the pod's network and ends. */
function serverMaking(options: NetworkOptions, request: NetworkRequest): ChildProcess {
  const module = (path: string) => JSON.stringify(new URL(`../../src/${path}`, here).href);
  const script = `
    import { createNetwork } from ${module("network/create.js")};
    import { silentLogger } from ${module("host/log.js")};
    const network = createNetwork({ ...${JSON.stringify({ ...options, logger: undefined })}, logger: silentLogger });
    await network.open();
    console.log("setup");
    await network.setup(${JSON.stringify(request)}, 60000);
    network.close();`;
  return spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

/** What `ip -n` takes for the path of a namespace. */
const nameOf = (netns: string) => netns.split("/").at(-1) ?? "";

/** Addresses that are still tentative cannot be used: a second after the interface came up, they can. */
async function settled(where: string[], device: string): Promise<void> {
  await until(`IPv6 addresses of ${device} past duplicate detection`, 10_000, async () => {
    const { stdout } = await run(["ip", ...where, "-6", "address", "show", "dev", device, "tentative"]);
    return stdout === "";
  });
}

/** Without the redirect the namespace's own stack answers, in the guest's place. */
async function withoutGuest({ netns }: PodNetwork): Promise<void> {
  await run(["tc", "-n", nameOf(netns), "qdisc", "delete", "dev", "eth0", "clsact"]);
  await settled(["-n", nameOf(netns)], "eth0");
}

/** A plugin at the chain's end that writes down each call, then does what `extra` (Node) says. */
async function spy(
  options: NetworkOptions,
  extra = "",
): Promise<() => Promise<{ command: string; env: Record<string, string>; config: Record<string, unknown> }[]>> {
  const [dir] = options.binDirs;
  await mkdir(dir ?? "", { recursive: true });
  const log = join(dir ?? "", "calls");
  await writeFile(log, "");
  await writeFile(
    join(dir ?? "", "spy"),
    `#!${process.execPath}
const fs = require("node:fs");
const command = process.env.CNI_COMMAND;
if (command === "VERSION") { console.log('{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'); process.exit(0); }
const config = JSON.parse(fs.readFileSync(0, "utf8"));
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => key.startsWith("CNI_")));
fs.appendFileSync(${JSON.stringify(log)}, JSON.stringify({ command, env, config }) + "\\n");
const answer = () => console.log(JSON.stringify(command === "ADD" ? config.prevResult : undefined) ?? "");
${extra || "answer();"}
`,
  );
  await chmod(join(dir ?? "", "spy"), 0o755);
  return async () =>
    (await readFile(log, "utf8"))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
}

const withSpy = (conflist: { plugins: Record<string, unknown>[] }) =>
  conflist.plugins.push({ type: "spy", capabilities: { portMappings: true } });

onNode(here, "the guest gets the interface's MAC, MTU, addresses and routes, of both families", async (t) => {
  const { network, gateway } = await rig(t, ({ plugins }) => {
    plugins[0] = { ...plugins[0], mtu: 1410 };
  });
  t.is(network.status().message, "");
  const made = await network.setup(pod("a"), deadline);
  const { stdout } = await run(["ip", "-n", nameOf(made.netns), "link", "show", "dev", "eth0"]);
  const [eth0] = made.interfaces;
  t.true(stdout.includes(eth0?.mac ?? "none"));
  t.is(eth0?.name, "eth0");
  t.is(eth0?.mtu, 1410);
  t.is(eth0?.addresses.length, 2);
  t.deepEqual(
    made.ips,
    eth0?.addresses.map((one) => one.split("/")[0] ?? ""),
  );
  const subnet6 = made.ips[1]?.replace(/::.*/, "");
  t.deepEqual(made.routes, [
    { destination: "0.0.0.0/0", gateway, interface: "eth0", mtu: 1410 },
    { destination: "::/0", gateway: `${subnet6}::1`, interface: "eth0", mtu: 1410 },
  ]);

  const tap = (await run(["ip", "-details", "-n", nameOf(made.netns), "link", "show", "dev", made.tap])).stdout;
  t.regex(tap, /mtu 1410 /);
  t.regex(tap, /vnet_hdr on persist on user 61234/);
  t.true(
    (await run(["ip", "-n", nameOf(made.netns), "address", "show", "dev", made.tap])).stdout.includes("inet6") ===
      false,
  );
  t.regex((await run(["ip", "-n", nameOf(made.netns), "link", "show", "dev", "lo"])).stdout, /LOOPBACK,UP/);

  t.deepEqual(
    await network.setup({ ...pod("a"), podId: (await network.list())[0] ?? "" }, deadline),
    made,
    "idempotent",
  );
});

onNode(here, "a VMM of the tap's user attaches without capabilities, another user cannot", async (t) => {
  const { network } = await rig(t);
  const { netns, tap } = await network.setup(pod("a"), deadline);
  const qemu = (user: number) => {
    const argv = [
      `--net=${netns}`,
      "setpriv",
      `--reuid=${user}`,
      `--regid=${user}`,
      "--clear-groups",
      "--bounding-set=-all",
    ];
    const vmm = [
      `${bundle()}/bin/qemu-system-x86_64`,
      "-M",
      "none",
      "-nodefaults",
      "-display",
      "none",
      "-monitor",
      "none",
    ];
    const nic = ["-netdev", `tap,id=n,ifname=${tap},script=no,downscript=no`, "-qmp", "stdio"];
    return spawn("nsenter", [...argv, ...vmm, ...nic], { stdio: ["pipe", "pipe", "pipe"] });
  };
  const owner = qemu(uid);
  t.teardown(() => owner.kill("SIGKILL"));
  await new Promise((resolve, reject) => {
    owner.stdout.once("data", resolve); // the greeting of QMP: the NIC's backend is open by then
    owner.once("exit", () => reject(new Error(String(owner.stderr.read()))));
  });
  t.regex((await run(["ip", "-n", nameOf(netns), "link", "show", "dev", tap])).stdout, /LOWER_UP/);
  owner.kill("SIGKILL");

  const stranger = qemu(uid + 1);
  t.teardown(() => stranger.kill("SIGKILL"));
  let said = "";
  stranger.stderr.on("data", (chunk) => (said += chunk));
  t.not(await new Promise((resolve) => stranger.once("close", resolve)), 0);
  t.regex(said, /not permitted/i);
});

onNode(here, "frames go both ways between the interface and the tap, past the namespace's own stack", async (t) => {
  const { network, options, gateway, bridge } = await rig(t);
  const made = await network.setup(pod("a"), deadline);
  const [eth0] = made.interfaces;
  // A cable in the tap's place, at whose other end a namespace is what the guest will be: the same MAC, addresses and routes.
  const guest = `guest-${randomBytes(4).toString("hex")}`;
  const podNs = nameOf(made.netns);
  await run(["ip", "netns", "add", guest]);
  t.teardown(() => run(["ip", "netns", "delete", guest]));
  const script = [
    `link delete ${tapName}`,
    `link add ${tapName} type veth peer name eth0 netns ${guest}`,
    `link set ${tapName} addrgenmode none up`,
  ];
  await run(["ip", "-n", podNs, "-batch", "-"], { input: `${script.join("\n")}\n` });
  await run(["tc", "-n", podNs, "qdisc", "delete", "dev", "eth0", "clsact"]);
  const tools = { ip: `${bundle()}/bin/ip`, tc: `${bundle()}/bin/tc`, env: options.env ?? process.env };
  await redirect(tools, podNs, deadline);
  const inGuest = [
    `link set dev lo up`,
    `link set dev eth0 address ${eth0?.mac} mtu ${eth0?.mtu} up`,
    ...(eth0?.addresses ?? []).map((one) => `address add ${one} dev eth0 ${one.includes(":") ? "nodad" : ""}`),
    ...made.routes.map((route) => `route add ${route.destination} via ${route.gateway} dev eth0`),
  ];
  await run(["ip", "-n", guest, "-batch", "-"], { input: `${inGuest.join("\n")}\n` });

  await settled([], bridge);
  const port = await freePort();
  await serveIn(t, `/run/netns/${guest}`, greeter(port, "guest"));
  t.is(await ask(made.ips[0] ?? "", port), `guest ::ffff:${gateway}`);
  t.regex(await ask(made.ips[1] ?? "", port), /^guest fd00:/);

  const other = await network.setup(pod("b"), deadline);
  await withoutGuest(other);
  const otherPort = await freePort();
  await serveIn(t, other.netns, greeter(otherPort, "other"));
  t.is(await askFrom(`/run/netns/${guest}`, other.ips[0] ?? "", otherPort), `other ::ffff:${made.ips[0]}`);
  t.is(await askFrom(`/run/netns/${guest}`, other.ips[1] ?? "", otherPort), `other ${made.ips[1]}`);
});

onNode(here, "two pods reach each other by address, IPv4 and IPv6", async (t) => {
  const { network } = await rig(t);
  const [a, b] = await Promise.all([network.setup(pod("a"), deadline), network.setup(pod("b"), deadline)]);
  await withoutGuest(a);
  await withoutGuest(b);
  const port = await freePort();
  await serveIn(t, a.netns, greeter(port, "a"));
  t.is(await askFrom(b.netns, a.ips[0] ?? "", port), `a ::ffff:${b.ips[0]}`);
  t.is(await askFrom(b.netns, a.ips[1] ?? "", port), `a ${b.ips[1]}`);
});

onNode(
  here,
  "a host port is reachable on 127.0.0.1, on the node's address, from outside, and from the pod itself",
  async (t) => {
    const { network } = await rig(t);
    const tag = randomBytes(3).toString("hex");
    const outside = `out-${tag}`;
    await run(["ip", "netns", "add", outside]);
    t.teardown(() => run(["ip", "netns", "delete", outside]));
    const wire = [
      `link add up${tag} type veth peer name eth0 netns ${outside}`,
      `address add 10.254.254.1/24 dev up${tag}`,
      `address add fd00:254::1/64 dev up${tag} nodad`,
      `link set up${tag} up`,
    ];
    await run(["ip", "-batch", "-"], { input: `${wire.join("\n")}\n` });
    await run(["ip", "-n", outside, "-batch", "-"], {
      input: "address add 10.254.254.2/24 dev eth0\naddress add fd00:254::2/64 dev eth0 nodad\nlink set eth0 up\n",
    });

    const hostPort = await freePort();
    const mapping = { protocol: "tcp" as const, containerPort: 8080, hostPort, hostIp: "" };
    const request = pod("web", { portMappings: [mapping] });
    const made = await network.setup(request, deadline);
    await withoutGuest(made);
    await serveIn(t, made.netns, greeter(8080, "web"));
    t.regex(await ask("127.0.0.1", hostPort), /^web /);
    t.regex(await ask("10.254.254.1", hostPort), /^web /);
    t.is(await askFrom(`/run/netns/${outside}`, "10.254.254.1", hostPort), "web ::ffff:10.254.254.2");
    t.is(await askFrom(`/run/netns/${outside}`, "fd00:254::1", hostPort), "web fd00:254::2");
    t.regex(await askFrom(made.netns, "10.254.254.1", hostPort), /^web /, "hairpin");

    await network.teardown(request.podId, deadline);
    await t.throwsAsync(ask("127.0.0.1", hostPort, 1000));
  },
);

onNode(here, "ten rounds leave nothing: namespaces, interfaces, rules, leases, records", async (t) => {
  const { network, leaseDir } = await rig(t);
  const round = async () => {
    const mapping = (hostPort: number) => ({ protocol: "tcp" as const, containerPort: 80, hostPort, hostIp: "" });
    const pods = [pod("a", { portMappings: [mapping(20_080)] }), pod("b", { portMappings: [mapping(20_081)] })];
    await Promise.all(pods.map((one) => network.setup(one, deadline)));
    await Promise.all(pods.map((one) => network.teardown(one.podId, deadline)));
  };
  await round(); // the bridge and the plugins' shared chains stay
  const before = await traces(leaseDir);
  for (let i = 0; i < 10; i++) await round();
  t.deepEqual(await traces(leaseDir), before);
  t.deepEqual(before.netns, []);
  t.deepEqual(await network.list(), []);
});

onNode(here, "plugins see the pod, and DEL gets once what ADD answered, with the configuration of then", async (t) => {
  const { network, options, confFile } = await rig(t, withSpy);
  const calls = await spy(options);
  const request = pod("a", {
    podNamespace: "ns1",
    portMappings: [{ protocol: "udp", containerPort: 53, hostPort: 5353, hostIp: "127.0.0.1" }],
  });
  await network.setup(request, deadline);
  await writeFile(confFile, (await readFile(confFile, "utf8")).replace(`"type":"spy"`, `"type":"spy","later":true`));
  await until("the new configuration is read", 5000, async () => network.status().ready);

  // The server is killed and comes again.
  network.close();
  const again = createNetwork(options);
  await again.open();
  t.teardown(() => again.close());
  t.deepEqual(await again.list(), [request.podId]);
  await again.teardown(request.podId, deadline);
  await again.teardown(request.podId, deadline);
  t.deepEqual(await again.list(), []);

  const [add, del, ...more] = await calls();
  t.deepEqual(more, []);
  t.is(add?.command, "ADD");
  t.is(del?.command, "DEL");
  t.is(add?.env.CNI_CONTAINERID, request.podId);
  t.is(add?.env.CNI_IFNAME, "eth0");
  t.is(add?.env.CNI_NETNS, `/run/netns/podvm-${request.podId.slice(0, 12)}`);
  t.is(
    add?.env.CNI_ARGS,
    `IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=${request.podId};K8S_POD_UID=uid-a`,
  );
  t.deepEqual(add?.config.runtimeConfig, {
    portMappings: [{ hostPort: 5353, containerPort: 53, protocol: "udp", hostIP: "127.0.0.1" }],
  });
  t.deepEqual(del?.config, add?.config, "the same configuration and, as the last plugin got it, the same result");
  t.deepEqual(del?.env, { ...add?.env, CNI_COMMAND: "DEL" });
});

onNode(here, "a failing ADD is undone and tells what the plugin said", async (t) => {
  const { network, options, leaseDir } = await rig(t, withSpy);
  const calls = await spy(
    options,
    `if (command === "DEL") process.exit(0);
     console.log(JSON.stringify({ cniVersion: "1.0.0", code: 7, msg: "no such vlan", details: "4095" })); process.exit(1);`,
  );
  await t.throwsAsync(network.setup(pod("a"), deadline), {
    code: "failed_precondition",
    message: /spy \(ADD\): no such vlan: 4095 \(CNI error 7\)/,
  });
  t.deepEqual(
    (await calls()).map((one) => one.command),
    ["ADD", "DEL"],
  );
  t.deepEqual(await network.list(), []);
  const { netns, leases } = await traces(leaseDir);
  t.deepEqual(netns, []);
  t.false(
    (leases ?? []).some((name) => /\/\d|:/.test(name)),
    String(leases),
  );
});

onNode(here, "a plugin that hangs is killed at the deadline, with what it started", async (t) => {
  const { network, options } = await rig(t, withSpy);
  const marker = `${300 + randomBytes(2).readUInt16BE()}.5`;
  await spy(
    options,
    `if (command === "DEL") process.exit(0);
     require("node:child_process").spawnSync("sleep", [${JSON.stringify(marker)}]);`,
  );
  await t.throwsAsync(network.setup(pod("a"), 2500), {
    code: "deadline_exceeded",
    message: /spy \(ADD\): killed after/,
  });
  t.deepEqual(await processes(`sleep\0${marker}\0`), []);
  t.deepEqual(await network.list(), []);
});

onNode(
  here,
  "a failing DEL keeps record and namespace for the next try; plugins see a vanished namespace as none",
  async (t) => {
    const { network, options, leaseDir } = await rig(t, withSpy);
    const gate = join(folder(t), "open");
    const calls = await spy(
      options,
      `if (command === "DEL" && !fs.existsSync(${JSON.stringify(gate)})) { console.log(JSON.stringify({ code: 11, msg: "busy" })); process.exit(1); }
     answer();`,
    );
    const request = pod("a");
    const { netns } = await network.setup(request, deadline);
    await t.throwsAsync(network.teardown(request.podId, deadline), {
      code: "unavailable",
      message: /spy \(DEL\): busy \(CNI error 11\)/,
    });
    t.deepEqual(await network.list(), [request.podId]);
    t.deepEqual((await traces(leaseDir)).netns?.length, 1);

    await run(["ip", "netns", "delete", nameOf(netns)]);
    await writeFile(gate, "");
    await network.teardown(request.podId, deadline);
    t.deepEqual(
      (await calls()).map(({ command, env }) => [command, env.CNI_NETNS]),
      [
        ["ADD", netns],
        ["DEL", netns],
        ["DEL", ""],
      ],
    );
    t.false(((await traces(leaseDir)).leases ?? []).some((name) => /\/\d|:/.test(name)));
  },
);

onNode(
  here,
  "a server killed in the middle of ADD: the next one waits for the plugin, then undoes all of it once",
  async (t) => {
    const { network, options, leaseDir, bridge } = await rig(t, withSpy);
    network.close();
    const calls = await spy(
      options,
      `if (command === "ADD") require("node:child_process").spawnSync("sleep", ["1"]); fs.appendFileSync(${JSON.stringify(join(options.stateDir, "ended"))}, command + " "); answer();`,
    );
    const request = pod("a");
    const server = serverMaking(options, request);
    await until("the plugin runs", 20_000, async () => (await calls()).length > 0);
    server.kill("SIGKILL");

    const again = createNetwork(options);
    await again.open();
    t.teardown(() => again.close());
    t.deepEqual(await again.list(), [request.podId]);
    await again.teardown(request.podId, deadline);
    t.deepEqual(
      (await calls()).map((one) => one.command),
      ["ADD", "DEL"],
    );
    t.is(await readFile(join(options.stateDir, "ended"), "utf8"), "ADD DEL ", "DEL began after ADD had ended");
    t.deepEqual(await again.list(), []);
    const left = await traces(leaseDir);
    t.deepEqual(left.netns, []);
    t.deepEqual(
      left.links?.filter((name) => name.startsWith("veth")),
      [],
      bridge,
    );
    t.false(
      (left.leases ?? []).some((name) => /\/\d|:/.test(name)),
      String(left.leases),
    );
  },
);

onNode(here, "a server killed after DEL does not call it again", async (t) => {
  const { network, options } = await rig(t, withSpy);
  const calls = await spy(options);
  const request = pod("a");
  const { netns } = await network.setup(request, deadline);
  network.close();
  const file = join(options.stateDir, "network", `${request.podId}.json`);
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), phase: "deleted" }));

  const again = createNetwork(options);
  await again.open();
  t.teardown(() => again.close());
  await again.teardown(request.podId, deadline);
  t.deepEqual(
    (await calls()).map((one) => one.command),
    ["ADD"],
  );
  t.false((await run(["ip", "netns", "list"])).stdout.includes(nameOf(netns)));
  t.deepEqual(await again.list(), []);
});

onNode(
  here,
  "a server killed at any moment of setup: the next one finds what there is and leaves nothing of it",
  async (t) => {
    const { network, options, leaseDir } = await rig(t);
    await network.setup(pod("first"), deadline); // so that the bridge and the shared chains are there
    network.close();
    const before = await traces(leaseDir);
    const first = await network.list();
    for (let round = 0; round < 16; round++) {
      const request = pod(`round-${round}`);
      const server = serverMaking(options, request);
      const ended = new Promise((resolve) => server.once("exit", resolve));
      await new Promise((resolve) => server.stdout?.once("data", resolve));
      await sleep(round * 12); // over the whole of a setup, from the first record to ready
      server.kill("SIGKILL");
      await ended;

      const again = createNetwork(options);
      await again.open();
      again.close();
      t.true((await again.list()).every((id) => id === request.podId || first.includes(id)));
      await again.teardown(request.podId, deadline);
      t.deepEqual(await again.list(), first);
      t.deepEqual(await traces(leaseDir), before, `round ${round}`);
    }
  },
);
