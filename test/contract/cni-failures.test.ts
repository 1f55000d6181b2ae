/** The CNI protocol when something fails or dies in the middle: what plugins see, and that nothing is left. */
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { sleep } from "../../src/host/deadline.js";
import { run } from "../../src/host/run.js";
import { createNetwork } from "../../src/network/create.js";
import { until } from "../support/until.js";
import { folder, onNode, processes, traces } from "./cni-host.js";
import { deadline, nameOf, pod, rig, serverDoing, spy, withSpy } from "./cni-rig.js";

const here = import.meta.url;

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
  "a failing DEL keeps record and namespace for the next try; one stands in for a namespace that has vanished, and nothing is left",
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
        ["DEL", `${netns}-gone`],
      ],
    );
    const left = await traces(leaseDir);
    t.deepEqual(left.netns ?? [], []);
    t.false((left.leases ?? []).some((name) => /\/\d|:/.test(name)));
    const { stdout: rules } = await run(["iptables", "-t", "nat", "-S"]);
    t.notRegex(rules, new RegExp(request.podId), "no masquerading");
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
    const server = serverDoing("setup", options, request);
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

for (const what of ["setup", "teardown"] as const) {
  onNode(here, `a server killed at any moment of ${what}: the next one finds it and leaves nothing`, async (t) => {
    const { network, options, leaseDir } = await rig(t);
    const mapping = (hostPort: number) => ({ protocol: "tcp" as const, containerPort: 80, hostPort, hostIp: "" });
    await network.setup(pod("first", { portMappings: [mapping(20_000)] }), deadline); // the bridge and the shared chains are there
    network.close();
    const before = await traces(leaseDir);
    const first = await network.list();
    for (let round = 0; round < 16; round++) {
      const request = pod(`round-${round}`, { portMappings: [mapping(20_001 + round)] });
      const server = serverDoing(what, options, request);
      const ended = new Promise((resolve) => server.once("exit", resolve));
      await new Promise((resolve) => server.stdout?.once("data", resolve));
      await sleep(round * 15); // over the whole of it, from the first record to the last
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
  });
}
