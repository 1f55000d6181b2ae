/** The README's walkthrough, command by command, with the real crictl; each test goes on where the one before ended. */
import { release } from "node:os";
import { busybox, containerConfig, type PodConfig } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();
let config: PodConfig;
let pod = "";
let container = "";

test("version names the runtime and speaks CRI v1", async (t) => {
  const said = await podvm().crictl.run("version");
  t.regex(said, /RuntimeName:\s+podvm/);
  t.regex(said, /RuntimeApiVersion:\s+v1/);
});

test("info says ready, with the network's reason where it is not", async (t) => {
  const { status } = await podvm().crictl.json<{
    status: { conditions: { type: string; status: boolean; reason: string }[] };
  }>("info");
  const condition = (type: string) => status.conditions.find((c) => c.type === type);
  t.is(condition("RuntimeReady")?.status, true);
  t.is(condition("NetworkReady")?.status, true, condition("NetworkReady")?.reason);
});

test("runtime-config answers the cgroup driver", async (t) => {
  const said = await podvm().crictl.run("runtime-config");
  t.regex(said, /cgroup driver:\s+\S/i);
});

test("pull brings an image, images lists it under its public name", async (t) => {
  await podvm().crictl.run("pull", busybox);
  const image = await podvm().crictl.imageTagged(busybox);
  t.regex(image.id, /^sha256:[0-9a-f]{64}$/);
  t.regex(image.repoDigests[0] ?? "", /^docker\.io\/library\/busybox@sha256:[0-9a-f]{64}$/);
  t.true(Number(image.size) > 100_000, `size ${image.size}`);
});

test("runp starts a pod with an address of the pod network", async (t) => {
  config = podvm().pod({ name: "walk", labels: { app: "walk" }, annotations: { note: "kept" } });
  pod = await podvm().crictl.runp(config);
  t.regex(pod, /^[0-9a-f]{64}$/);
  const status = await podvm().crictl.inspectp(pod);
  t.is(status.state, "SANDBOX_READY");
  t.true(status.network.ip.startsWith(`${podvm().subnet}.`), status.network.ip);
  t.true(status.network.additionalIps.some(({ ip }) => ip.startsWith(`${podvm().subnet6}:`)));
});

test("create and start run a container", async (t) => {
  const wanted = containerConfig({
    name: "main",
    command: ["sh", "-c"],
    args: [
      'echo "hello from $(hostname)"; echo "to stderr" >&2; trap "echo bye; exit 7" TERM; while :; do sleep 0.1; done',
    ],
    envs: { GREETING: "moin" },
    labels: { role: "main" },
  });
  container = await podvm().crictl.create(pod, wanted, config);
  t.is((await podvm().crictl.inspect(container)).state, "CONTAINER_CREATED");
  await podvm().crictl.run("start", container);
  const status = await podvm().crictl.inspect(container);
  t.is(status.state, "CONTAINER_RUNNING");
  t.not(status.startedAt, "");
});

test("exec runs in the container: its environment, its hostname, a kernel that is not the host's", async (t) => {
  const { crictl } = podvm();
  t.is(await crictl.exec(container, "sh", "-c", "echo $GREETING"), "moin");
  t.is(await crictl.exec(container, "hostname"), "walk");
  const guest = await crictl.exec(container, "uname", "-r");
  t.not(guest, release());
  t.regex(guest, /^\d+\.\d+\./);
  t.log(`host kernel ${release()}, guest kernel ${guest}`);
  const failed = await crictl.fails("exec", "--sync", container, "sh", "-c", "echo err >&2; exit 3");
  t.regex(failed, /exited with 3: err/);
});

test("ps and pods list both, as tables too", async (t) => {
  const { crictl } = podvm();
  const [listed] = await crictl.containers("--pod", pod);
  t.is(listed?.id, container);
  t.is(listed?.podSandboxId, pod);
  t.is(listed?.metadata.name, "main");
  t.is((await crictl.pods("--id", pod))[0]?.labels.app, "walk");
  t.regex(await crictl.run("ps"), new RegExp(`${container.slice(0, 13)}.*Running`));
  t.regex(await crictl.run("pods"), new RegExp(`${pod.slice(0, 13)}.*Ready`));
});

test("logs shows both streams", async (t) => {
  const result = await podvm().crictl.attempt(["logs", container]);
  t.is(result.stdout, "hello from walk\n");
  t.is(result.stderr, "to stderr\n");
});

test("inspect shows image, times and log path", async (t) => {
  const status = await podvm().crictl.inspect(container);
  t.is(status.logPath, `${config.log_directory}/main-0.log`);
  t.is(status.labels.role, "main");
  const image = await podvm().crictl.imageTagged(busybox);
  t.is(status.imageId, image.id);
  const { status: shown } = await podvm().crictl.json<{ status: { id: string } }>("inspecti", "-o", "json", busybox);
  t.is(shown.id, image.id);
});

test("stats and statsp give CPU time and memory", async (t) => {
  const { stats } = await podvm().crictl.json<{
    stats: {
      attributes: { id: string };
      cpu: { usageCoreNanoSeconds: { value: string } };
      memory: { workingSetBytes: { value: string } };
    }[];
  }>("stats", "-o", "json", "--id", container);
  t.is(stats[0]?.attributes.id, container);
  t.true(Number(stats[0]?.cpu.usageCoreNanoSeconds.value) > 0);
  t.true(Number(stats[0]?.memory.workingSetBytes.value) > 0);
  const pods = await podvm().crictl.json<{
    stats: { attributes: { id: string }; linux: { memory: { workingSetBytes: { value: string } } } }[];
  }>("statsp", "-o", "json", "--id", pod);
  t.is(pods.stats[0]?.attributes.id, pod);
  t.true(Number(pods.stats[0]?.linux.memory.workingSetBytes.value) > 0);
});

test("update changes the limits of the running container", async (t) => {
  const bytes = 48 << 20;
  await podvm().crictl.run(
    "update",
    "--memory",
    String(bytes),
    "--cpu-period",
    "100000",
    "--cpu-quota",
    "50000",
    container,
  );
  const group = await podvm().crictl.exec(
    container,
    "sh",
    "-c",
    "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max",
  );
  t.deepEqual(group.split("\n"), [String(bytes), "50000 100000"]);
});

test("imagefsinfo says where the images are and what they take", async (t) => {
  const said = await podvm().crictl.run("imagefsinfo");
  t.true(said.includes(podvm().stateDir), said);
});

test("stop asks first, and the exit code is the container's own", async (t) => {
  await podvm().crictl.run("stop", "--timeout", "20", container);
  const status = await podvm().crictl.inspect(container);
  t.is(status.state, "CONTAINER_EXITED");
  t.is(status.exitCode, 7);
  t.true((await podvm().crictl.run("logs", container)).endsWith("bye"));
  await podvm().crictl.run("stop", container); // stopping twice is no error
});

test("stop kills what does not listen", async (t) => {
  const deaf = await podvm().crictl.start(
    pod,
    containerConfig({ command: ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"] }),
    config,
  );
  await until("it does not listen any more", 30_000, async () => {
    return (await podvm().crictl.run("logs", deaf)).includes("deaf");
  });
  await podvm().crictl.run("stop", "--timeout", "1", deaf);
  t.is((await podvm().crictl.inspect(deaf)).exitCode, 137);
  await podvm().crictl.run("rm", deaf);
  t.deepEqual(await podvm().crictl.containers("--id", deaf), []);
});

test("rm, stopp and rmp remove them; asking again is no error", async (t) => {
  const { crictl } = podvm();
  await crictl.run("rm", container);
  t.deepEqual(await crictl.containers(), []);
  await crictl.run("stopp", pod);
  t.is((await crictl.inspectp(pod)).state, "SANDBOX_NOTREADY");
  await crictl.run("stopp", pod);
  await crictl.run("rmp", pod);
  t.deepEqual(await crictl.pods(), []);
  t.regex(await crictl.fails("inspectp", pod), /NotFound|not found/i);
});

test("rmi removes the image", async (t) => {
  await podvm().crictl.run("rmi", busybox);
  t.deepEqual(await podvm().crictl.images(), []);
});
