/** Pods without a virtual machine: only where the configuration allows them, and then like any other pod. */
import { spawn } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, get as httpGet } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { hostname, release } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { run } from "../../src/host/run.js";
import { busybox, containerConfig, type PodOptions, random } from "../support/manifests.js";
import { left, type NodeSnapshot, processes, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const { test, podvm } = suite({ toml: { policy: 'host_namespaces = ["kube-system", "host-*"]' } });

const NODE = 2;
const BIDIRECTIONAL = 2;
const HOST_TO_CONTAINER = 1;

const asking = (options: Record<string, number>, namespace = "kube-system"): PodOptions => ({
  namespace,
  linux: { security_context: { namespace_options: options } },
});
const privileged = { security_context: { privileged: true } };

let before: NodeSnapshot;

async function info(podId: string): Promise<Record<string, unknown>> {
  return (await podvm().crictl.json<{ info: Record<string, unknown> }>("inspectp", podId)).info;
}

/** A pod by the runtime handler. */
async function runHandler(config: ReturnType<ReturnType<typeof podvm>["pod"]>): Promise<string> {
  const { crictl } = podvm();
  const id = await crictl.run("runp", "--runtime", "host", await crictl.file(config));
  crictl.podIds.add(id);
  return id;
}

function fetchText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    httpGet(url, { agent: false, timeout: 5000 }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      answer.on("end", () => resolve(text.trim()));
    }).on("error", reject);
  });
}

async function freePort(): Promise<number> {
  const server = createTcpServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const web = (text: string, port: number) => [
  "sh",
  "-c",
  `mkdir /www && echo ${text} > /www/index.html && exec httpd -f -p 127.0.0.1:${port} -h /www`,
];

/** A folder that is a shared mount of its own: what kubelet's folder is on an ordinary node. */
async function sharedFolder(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join("/var/tmp", "podvm-shared-"));
  await run(["mount", "--bind", folder, folder]);
  t.teardown(async () => {
    for (let round = 0; round < 4; round++) await run(["umount", "-l", folder], { okCodes: [0, 1, 32] });
    await rm(folder, { recursive: true, force: true });
  });
  await run(["mount", "--make-rshared", folder]);
  return folder;
}

async function nothingLeft(t: ExecutionContext): Promise<void> {
  t.deepEqual(await podvm().crictl.pods(), []);
  t.deepEqual(left(before, await snapshot(podvm())), {});
}

test("the first pods make what stays", async (t) => {
  await podvm().warmUp();
  await podvm().removePod((await podvm().podWith({}, asking({ network: NODE }))).podId);
  before = await snapshot(podvm());
  t.deepEqual(before.processes, []);
  t.deepEqual(before.mounts, []);
});

test("a pod with the host's network sees its ports, has its name and kernel, and leaves nothing", async (t) => {
  const { crictl } = podvm();
  const server = createServer((_, response) => response.end("from the host"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const { podId, id } = await podvm().podWith({}, asking({ network: NODE }));
  t.is(await crictl.exec(id, "wget", "-qO-", `http://127.0.0.1:${port}/`), "from the host");
  t.is(await crictl.exec(id, "readlink", "/proc/self/ns/net"), readlinkSync("/proc/self/ns/net"));
  t.is(await crictl.exec(id, "uname", "-r"), release());
  t.is(await crictl.exec(id, "hostname"), hostname());
  t.not(await crictl.exec(id, "readlink", "/proc/self/ns/ipc"), readlinkSync("/proc/self/ns/ipc"));
  t.not(await crictl.exec(id, "readlink", "/proc/self/ns/pid"), readlinkSync("/proc/self/ns/pid"));
  t.is((await info(podId)).vmm, "host");
  t.falsy((await crictl.inspectp(podId)).network.ip);
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("port-forward into a pod with the host's network", async (t) => {
  const [inside, outside] = [await freePort(), await freePort()];
  const text = random(6);
  const { podId } = await podvm().podWith({ command: web(text, inside) }, asking({ network: NODE }));
  t.is(await until("the server on the host's loopback", 20_000, () => fetchText(`http://127.0.0.1:${inside}/`)), text);
  const config = join(podvm().dir, "crictl", "crictl.yaml");
  const forward = spawn(tool("crictl"), ["--config", config, "port-forward", podId, `${outside}:${inside}`], {
    stdio: "ignore",
  });
  t.teardown(() => forward.kill("SIGKILL"));
  t.is(await until("the forwarded port", 20_000, () => fetchText(`http://127.0.0.1:${outside}/`)), text);
  forward.kill("SIGTERM");
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("a pod with the host's pids sees the host's processes, with a network of its own", async (t) => {
  const { crictl } = podvm();
  const options = { pid: NODE };
  const { podId, id } = await podvm().podWith(
    { linux: { security_context: { namespace_options: options } } },
    asking(options),
  );
  t.regex(await crictl.exec(id, "cat", `/proc/${podvm().pid}/cmdline`), /serve/);
  t.not(await crictl.exec(id, "readlink", "/proc/self/ns/net"), readlinkSync("/proc/self/ns/net"));
  t.regex((await crictl.inspectp(podId)).network.ip, /^10\./);
  await podvm().removePod(podId);
  // Where the host is not allowed it stays in its VM, and sees nothing of the host.
  const other = await podvm().podWith(
    { linux: { security_context: { namespace_options: options } } },
    asking(options, "default"),
  );
  t.is((await info(other.podId)).vmm, "qemu");
  await podvm().removePod(other.podId);
  await nothingLeft(t);
});

test("a pod with the host's IPC shares its segments and /dev/shm", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith({}, asking({ ipc: NODE }));
  t.is(await crictl.exec(id, "readlink", "/proc/self/ns/ipc"), readlinkSync("/proc/self/ns/ipc"));
  const file = join("/dev/shm", `podvm-${random()}`);
  await writeFile(file, "seen");
  t.teardown(() => rm(file, { force: true }));
  t.is(await crictl.exec(id, "cat", file), "seen");
  await podvm().removePod(podId);
  t.is(readFileSync(file, "utf8"), "seen", "the host's /dev/shm outlives the pod");
  await nothingLeft(t);
});

test("the runtime handler: own network, name, IPC; limits, logs and volumes", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod({ namespace: "host-x", hostname: "own-name" });
  const podId = await runHandler(config);
  const folder = await mkdtemp(join("/var/tmp", "podvm-vol-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  await writeFile(join(folder, "f"), "bound");
  const script = "cat /v/f; hostname; head -c 300000 /dev/zero | tr '\\0' x; echo; echo end; sleep 3600";
  const container = containerConfig({
    command: ["sh", "-c", script],
    mounts: [
      { host_path: folder, container_path: "/v", readonly: true },
      { host_path: join(folder, "made"), container_path: "/made" },
    ],
    linux: { resources: { memory_limit_in_bytes: 64 << 20, cpu_quota: 50_000, cpu_period: 100_000 } },
  });
  const id = await crictl.start(podId, container, config);
  const log = await until("the end of the log", 20_000, async () => {
    const text = await crictl.run("logs", id);
    return text.endsWith("end") && text;
  });
  t.is(log, `boundown-name\n${"x".repeat(300_000)}\nend`);
  t.not(await crictl.exec(id, "readlink", "/proc/self/ns/uts"), readlinkSync("/proc/self/ns/uts"));
  const { network } = await crictl.inspectp(podId);
  t.regex(
    await crictl.exec(id, "ip", "-o", "addr", "show", "eth0"),
    new RegExp(` ${network.ip.replaceAll(".", "\\.")}/`),
  );
  t.regex(await crictl.exec(id, "ping", "-c1", "-W5", "127.0.0.1"), / 0% packet loss/);
  t.regex(await crictl.fails("exec", "--sync", id, "touch", "/v/g"), /Read-only/);
  t.is(await crictl.exec(id, "sh", "-c", "echo w > /made/w; cat /made/w"), "w");
  t.is(readFileSync(join(folder, "made/w"), "utf8"), "w\n");
  t.regex(await crictl.fails("exec", "--sync", id, "mount", "-t", "tmpfs", "x", "/tmp"), /denied|permitted/);
  t.regex(
    await crictl.fails("exec", "--sync", id, "sh", "-c", "mknod /tmp/d b 254 0 && head -c1 /tmp/d"),
    /not permitted/,
  );

  const { stats } = await crictl.json<{
    stats: { memory: { workingSetBytes: { value: string } }; cpu: { usageCoreNanoSeconds: { value: string } } }[];
  }>("stats", "-o", "json", id);
  t.true(Number(stats[0]?.memory.workingSetBytes.value) > 0);
  t.true(Number(stats[0]?.memory.workingSetBytes.value) < 64 << 20);
  t.true(Number(stats[0]?.cpu.usageCoreNanoSeconds.value) > 0);

  const pods = await crictl.json<{
    stats: {
      linux: { memory: { workingSetBytes: { value: string } }; process: { processCount: { value: string } } };
    }[];
  }>("statsp", "-o", "json", "--id", podId);
  t.true(Number(pods.stats[0]?.linux.memory.workingSetBytes.value) < 256 << 20, "the pod's, not the node's");
  t.true(Number(pods.stats[0]?.linux.process.processCount.value) < 20);

  const greedy = await crictl.start(
    podId,
    containerConfig({
      command: ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=60M count=1000"],
      linux: { resources: { memory_limit_in_bytes: 20 << 20, memory_swap_limit_in_bytes: 20 << 20 } },
    }),
    config,
  );
  const status = await until("the greedy container's end", 30_000, async () => {
    const found = await crictl.inspect(greedy);
    return found.state === "CONTAINER_EXITED" && found;
  });
  t.is(status.reason, "OOMKilled");
  t.is(status.exitCode, 137);
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("bidirectional mounts: a pod that has no container yet goes on without its VM, with the same addresses", async (t) => {
  const { crictl } = podvm();
  const folder = await sharedFolder(t);
  await mkdir(join(folder, "a"));
  await mkdir(join(folder, "b"));
  const source = await mkdtemp(join("/var/tmp", "podvm-src-"));
  t.teardown(() => rm(source, { recursive: true, force: true }));
  await writeFile(join(source, "file"), "");
  const config = podvm().pod({ namespace: "kube-system" });
  const podId = await crictl.runp(config);
  t.is((await info(podId)).vmm, "qemu");
  const { network } = await crictl.inspectp(podId);

  const mounts = [{ host_path: folder, container_path: "/m", propagation: BIDIRECTIONAL }];
  const id = await crictl.start(podId, containerConfig({ mounts, linux: privileged }), config);
  t.is((await info(podId)).vmm, "host");
  t.deepEqual((await crictl.inspectp(podId)).network, network);
  t.regex(
    await crictl.exec(id, "ip", "-o", "addr", "show", "eth0"),
    new RegExp(` ${network.ip.replaceAll(".", "\\.")}/`),
  );

  await run(["mount", "--bind", source, join(folder, "a")]);
  t.is(await crictl.exec(id, "ls", "/m/a"), "file", "from the host to the container");
  await crictl.exec(id, "mount", "-t", "tmpfs", "in", "/m/b");
  t.regex(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(`${folder}/b `), "from the container to the host");
  await crictl.exec(id, "umount", "/m/b");
  await run(["umount", join(folder, "a")]);
  t.is(await crictl.exec(id, "ls", "/m/a"), "");
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("mounts from the host to the container only; private ones; a mount that cannot propagate is refused", async (t) => {
  const { crictl } = podvm();
  const folder = await sharedFolder(t);
  for (const name of ["a", "b"]) await mkdir(join(folder, name));
  const config = podvm().pod({ namespace: "kube-system" });
  const podId = await runHandler(config);
  const id = await crictl.start(
    podId,
    containerConfig({
      mounts: [
        { host_path: folder, container_path: "/slave", propagation: HOST_TO_CONTAINER },
        { host_path: folder, container_path: "/private" },
      ],
      linux: privileged,
    }),
    config,
  );
  await run(["mount", "-t", "tmpfs", "out", join(folder, "a")]);
  await writeFile(join(folder, "a/file"), "");
  t.is(await crictl.exec(id, "ls", "/slave/a"), "file");
  t.is(await crictl.exec(id, "ls", "/private/a"), "");
  await crictl.exec(id, "mount", "-t", "tmpfs", "in", "/slave/b");
  t.notRegex(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(`${folder}/b `));
  await run(["umount", join(folder, "a")]);

  const own = await mkdtemp(join("/var/tmp", "podvm-private-"));
  await run(["mount", "--bind", own, own]);
  t.teardown(async () => {
    await run(["umount", "-l", own], { okCodes: [0, 32] });
    await rm(own, { recursive: true });
  });
  await run(["mount", "--make-private", own]);
  const file = await crictl.file(
    containerConfig({ mounts: [{ host_path: own, container_path: "/m", propagation: BIDIRECTIONAL }] }),
  );
  t.regex(await crictl.fails("create", podId, file, await crictl.file(config)), /is private.*--make-rshared/s);
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("without permission: a clear error that names the key, a line in the log, and nothing left", async (t) => {
  const { crictl } = podvm();
  for (const options of [{ network: NODE }, { ipc: NODE }, { pid: NODE, network: NODE }] as Record<string, number>[]) {
    const config = podvm().pod(asking(options, "default"));
    t.regex(await crictl.fails("runp", await crictl.file(config)), /policy\.host_namespaces/);
  }
  const config = podvm().pod();
  t.regex(await crictl.fails("runp", "--runtime", "host", await crictl.file(config)), /policy\.host_namespaces/);
  t.regex(podvm().logTail(200), /refused a pod that asks for the host/);

  const folder = await sharedFolder(t);
  const podId = await crictl.runp(config);
  const mounts = [{ host_path: folder, container_path: "/m", propagation: BIDIRECTIONAL }];
  const file = await crictl.file(containerConfig({ mounts }));
  t.regex(
    await crictl.fails("create", podId, file, await crictl.file(config)),
    /bidirectional.*policy\.host_namespaces/s,
  );
  t.is((await info(podId)).vmm, "qemu");
  // Where it would be allowed, but the VM is in use already.
  const inUse = await podvm().podWith({}, { namespace: "kube-system" });
  t.regex(await crictl.fails("create", inUse.podId, file, await crictl.file(inUse.config)), /handler \\*"host/);
  t.is(await crictl.exec(inUse.id, "echo", "on"), "on");
  for (const id of [podId, inUse.podId]) await podvm().removePod(id);
  await nothingLeft(t);
});

test("sysctls: the pod's own namespaces take them, the host's never do", async (t) => {
  const { crictl } = podvm();
  const value = readFileSync("/proc/sys/net/ipv4/ip_default_ttl", "utf8");
  const own = podvm().pod({ namespace: "kube-system", linux: { sysctls: { "net.ipv4.ip_default_ttl": "77" } } });
  const podId = await runHandler(own);
  const id = await crictl.start(podId, containerConfig(), own);
  t.is(await crictl.exec(id, "cat", "/proc/sys/net/ipv4/ip_default_ttl"), "77");
  const shared = podvm().pod({
    namespace: "kube-system",
    linux: { sysctls: { "net.ipv4.ip_default_ttl": "77" }, ...asking({ network: NODE }).linux },
  });
  t.regex(await crictl.fails("runp", await crictl.file(shared)), /net\.ipv4\.ip_default_ttl/);
  t.is(readFileSync("/proc/sys/net/ipv4/ip_default_ttl", "utf8"), value);
  await podvm().removePod(podId);
  await nothingLeft(t);
});

test("a server that is killed comes back to its host pods; an agent that dies takes its containers with it", async (t) => {
  const { crictl } = podvm();
  const { podId, id, config } = await podvm().podWith(
    { command: ["sh", "-c", "i=0; while sleep 0.05; do echo line-$((i=i+1)); done"] },
    asking({ network: NODE }),
  );
  await podvm().restart();
  t.is(await crictl.exec(id, "echo", "still"), "still");
  const second = await crictl.start(podId, containerConfig({ command: ["sleep", "7777"] }), config);
  const lines = await until("lines after the restart", 20_000, async () => {
    const found = (await crictl.run("logs", id)).split("\n");
    return found.length > 60 && found;
  });
  t.deepEqual(
    lines,
    lines.map((_, i) => `line-${i + 1}`),
  );

  const { pid } = (await info(podId)) as { pid: number };
  process.kill(pid, "SIGKILL");
  await until(
    "the sandbox is not ready",
    20_000,
    async () => (await crictl.inspectp(podId)).state === "SANDBOX_NOTREADY",
  );
  for (const container of [id, second]) {
    const status = await crictl.inspect(container);
    t.is(status.state, "CONTAINER_EXITED");
    t.is(status.exitCode, 137);
    t.regex(status.message, /agent died/);
  }
  await until("their processes have ended", 10_000, () => processes(podvm()).length === 0);
  await podvm().removePod(podId);

  // The same while no server runs.
  const again = await podvm().podWith({ command: ["sleep", "7778"] }, asking({ network: NODE }));
  const agent = (await info(again.podId)) as { pid: number };
  await podvm().kill();
  process.kill(agent.pid, "SIGKILL");
  await podvm().start();
  t.is((await crictl.inspect(again.id)).state, "CONTAINER_EXITED");
  await until("its containers' processes have ended", 5_000, () => processes(podvm()).length === 0);
  await podvm().removePod(again.podId);
  await nothingLeft(t);
});

test("an image that a host pod runs can be removed and pulled again", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith({}, asking({ network: NODE }));
  await crictl.run("rmi", busybox);
  t.is(await crictl.exec(id, "echo", "on"), "on");
  await crictl.run("pull", busybox);
  const other = await podvm().podWith({}, asking({ network: NODE }));
  t.is(await crictl.exec(other.id, "echo", "too"), "too");
  for (const pod of [podId, other.podId]) await podvm().removePod(pod);
  await nothingLeft(t);
});
