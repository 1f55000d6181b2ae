/** What dies, and what does not: the VMM under a pod, the server over running pods. */
import { containerConfig } from "../support/manifests.js";
import { left, processes, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

test.before(async () => {
  await podvm().warmUp();
});

function vmm(): number {
  const [found, ...more] = processes(podvm()).filter(({ uid }) => uid >= podvm().uidBase);
  if (!found || more.length > 0) throw new Error(`wanted one VMM, found ${more.length + (found ? 1 : 0)}`);
  return found.pid;
}

test("kill -9 of the VMM: containers are 137 at once, the sandbox NotReady, and removal works", async (t) => {
  const { crictl } = podvm();
  const before = await snapshot(podvm());
  const { config, podId, id } = await podvm().podWith();
  const second = await crictl.start(podId, containerConfig(), config);
  process.kill(vmm(), "SIGKILL");
  for (const container of [id, second]) {
    const status = await until("the container is reported as exited", 10_000, async () => {
      const now = await crictl.inspect(container);
      return now.state === "CONTAINER_EXITED" && now;
    });
    t.is(status.exitCode, 137);
    t.not(status.reason, "Completed");
  }
  t.is((await crictl.inspectp(podId)).state, "SANDBOX_NOTREADY");
  t.is((await crictl.attempt(["exec", "--sync", id, "true"])).code === 0, false);
  await crictl.run("stop", id);
  await crictl.run("rm", id);
  await podvm().removePod(podId);
  t.deepEqual(await crictl.containers(), []);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});

test("kill -9 of the VMM while the server is away is found at its start", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith();
  const pid = vmm();
  await podvm().kill();
  process.kill(pid, "SIGKILL");
  await podvm().start();
  const status = await until("the container is reported as exited", 20_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  t.is(status.exitCode, 137);
  t.is((await crictl.inspectp(podId)).state, "SANDBOX_NOTREADY");
  await podvm().removePod(podId);
});

test("a killed and restarted server finds its pods running; exec, logs and stop go on", async (t) => {
  const { crictl } = podvm();
  const { podId, id, config } = await podvm().podWith({
    command: ["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"],
  });
  const pid = vmm();
  const started = (await crictl.inspect(id)).startedAt;
  const boot = await crictl.exec(id, "cat", "/proc/sys/kernel/random/boot_id");
  const address = (await crictl.inspectp(podId)).network.ip;
  for (let round = 0; round < 3; round++) {
    await podvm().restart();
    t.is((await crictl.inspectp(podId)).state, "SANDBOX_READY");
    t.is((await crictl.inspectp(podId)).network.ip, address);
    const status = await crictl.inspect(id);
    t.is(status.state, "CONTAINER_RUNNING");
    t.is(status.startedAt, started);
    t.is(await crictl.exec(id, "cat", "/proc/sys/kernel/random/boot_id"), boot);
  }
  t.is(vmm(), pid);
  const second = await crictl.start(podId, containerConfig({ command: ["sh", "-c", "exec sleep 3600"] }), config);
  t.is(await crictl.exec(second, "echo", "new"), "new");
  await crictl.run("stop", "--timeout", "0", id);
  const numbers = (await crictl.run("logs", id)).split("\n").map(Number);
  t.true(numbers.length > 10);
  t.deepEqual(
    numbers,
    Array.from(numbers, (_, i) => i),
  );
  await podvm().removePod(podId);
});

test("an exit while the server was away is reported with its code and time", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith({ command: ["sh", "-c", "sleep 3; exit 5"] });
  await podvm().kill();
  await new Promise((resolve) => setTimeout(resolve, 6000)); // longer than the container lives
  const back = Date.now();
  await podvm().start();
  const status = await until("the exit is reported", 20_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  t.is(status.exitCode, 5);
  t.true(new Date(status.finishedAt).getTime() < back, "the time is the exit's, not the restart's");
  await podvm().removePod(podId);
});

test("SIGTERM ends the server and leaves pods running", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith();
  const pid = vmm();
  await podvm().stop();
  t.is(vmm(), pid);
  await podvm().start();
  t.is(await crictl.exec(id, "echo", "still here"), "still here");
  await podvm().removePod(podId);
});

test("a server killed while pods start and stop leaves nothing behind once they are removed", async (t) => {
  t.timeout(600_000);
  const { crictl } = podvm();
  const before = await snapshot(podvm());
  for (const delay of [100, 400, 900, 1500, 2500]) {
    const config = podvm().pod();
    const run = crictl.attempt(["runp", await crictl.file(config)]);
    await new Promise((resolve) => setTimeout(resolve, delay));
    await podvm().kill();
    await run;
    await podvm().start();
    for (const { id } of await crictl.pods()) crictl.podIds.add(id);
    await podvm().removeAllPods();
  }
  const rest = await until("the node is as before", 60_000, async () => {
    const now = left(before, await snapshot(podvm()));
    return Object.keys(now).length === 0 && now;
  }).catch(async () => left(before, await snapshot(podvm())));
  t.deepEqual(rest, {});
});
