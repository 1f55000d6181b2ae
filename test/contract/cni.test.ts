/** Pod networks with the real CNI plugins, iproute2 and iptables of the runtime bundle: what they carry, and that they go. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { run } from "../../src/host/run.js";
import { redirect, tapName } from "../../src/network/tap.js";
import { ask, askFrom, bundle, freePort, greeter, onNode, serveIn, traces } from "./cni-host.js";
import { deadline, nameOf, pod, rig, settled, uid, withoutGuest } from "./cni-rig.js";

const here = import.meta.url;

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
