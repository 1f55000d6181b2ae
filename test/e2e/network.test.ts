/** The pod network as seen from the host. */
import { readdirSync } from "node:fs";
import { request } from "node:http";
import { busybox, random } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm, server } = suite();

function get(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { timeout: 5000, agent: false }, (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (chunk: string) => {
        text += chunk;
      });
      answer.on("end", () => resolve(text.trim()));
    });
    asked.on("timeout", () => asked.destroy(new Error(`${url}: no answer within 5 s`)));
    asked.on("error", reject);
    asked.end();
  });
}

const web = (text: string) => [
  "sh",
  "-c",
  `mkdir /www && echo ${text} > /www/index.html && exec httpd -f -p 80 -h /www`,
];

test("a host port reaches the container by the host's loopback and by the pod's address", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  const text = random(6);
  const port = 21_000 + Math.floor(Math.random() * 9000);
  const { podId } = await podvm().podWith(
    { command: web(text) },
    { portMappings: [{ protocol: 0, container_port: 80, host_port: port }] },
  );
  const { network } = await crictl.inspectp(podId);
  t.is(await until("the pod's address answers", 30_000, () => get(`http://${network.ip}/`)), text);
  const v6 = network.additionalIps.find(({ ip }) => ip.includes(":"))?.ip;
  t.is(await get(`http://[${v6}]/`), text);
  t.is(await get(`http://127.0.0.1:${port}/`), text);
  await podvm().removePod(podId);
  await t.throwsAsync(get(`http://127.0.0.1:${port}/`), undefined, "the port is closed with the pod");
});

test("the guest carries the network's addresses, routes, MTU and DNS", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith(
    {},
    { hostname: "named", dns: { servers: ["192.0.2.53"], searches: ["example.test"], options: ["ndots:2"] } },
  );
  const { network } = await crictl.inspectp(podId);
  const addresses = await crictl.exec(id, "ip", "addr", "show", "eth0");
  t.true(addresses.includes(`inet ${network.ip}/24`), addresses);
  t.true(addresses.includes(`inet6 ${podvm().subnet6}:`), addresses);
  t.notRegex(addresses, /scope global.*tentative/); // usable from the first moment; the kernel's own link-local one may take its second
  t.regex(
    await crictl.exec(id, "ip", "route"),
    new RegExp(`default via ${podvm().subnet.replaceAll(".", "\\.")}\\.1 dev eth0`),
  );
  const resolv = await crictl.exec(id, "cat", "/etc/resolv.conf");
  t.regex(resolv, /^nameserver 192\.0\.2\.53$/m);
  t.regex(resolv, /^search example\.test$/m);
  t.regex(resolv, /^options ndots:2$/m);
  t.is(await crictl.exec(id, "cat", "/proc/sys/kernel/hostname"), "named");
  const gateway = `${podvm().subnet}.1`;
  t.regex(await crictl.exec(id, "ping", "-c", "1", "-W", "5", gateway), /1 packets received/);
  await podvm().removePod(podId);
});

test("without a configuration the network is not ready and says why; it is picked up when it appears", async (t) => {
  const own = await server(t, { cni: false });
  await own.start();
  type Info = { status: { conditions: { type: string; status: boolean; reason: string; message: string }[] } };
  const network = async () => {
    const { status } = await own.crictl.json<Info>("info");
    return status.conditions.find(({ type }) => type === "NetworkReady");
  };
  const condition = await network();
  t.false(condition?.status);
  t.is(condition?.reason, "NetworkPluginNotReady");
  t.true(condition?.message.includes(own.confDir), condition?.message);
  t.deepEqual(readdirSync(own.confDir), []);
  const refused = await own.crictl.fails("runp", await own.crictl.file(own.pod()));
  t.regex(refused, /network/i);
  t.deepEqual(await own.crictl.pods(), []);

  await own.writeCni();
  await until("the network is ready", 30_000, async () => (await network())?.status);
  await own.crictl.run("pull", busybox);
  const { id } = await own.podWith();
  t.is(await own.crictl.exec(id, "echo", "up"), "up");
});

test("a host port can be used again after its pod was removed", async (t) => {
  const { crictl } = podvm();
  const port = 21_000 + Math.floor(Math.random() * 9000);
  const mapped = { portMappings: [{ protocol: 0, container_port: 80, host_port: port }] };
  const first = podvm().pod(mapped);
  const pod = await crictl.runp(first);
  await podvm().removePod(pod);
  const text = random(6);
  const again = await podvm().podWith({ command: web(text) }, mapped);
  t.is(await until("the port answers", 30_000, () => get(`http://127.0.0.1:${port}/`)), text);
  await podvm().removePod(again.podId);
});
