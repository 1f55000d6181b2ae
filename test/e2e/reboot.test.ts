/** What a reboot of the node leaves: documents and disks, but no process, no run folder, no namespace, no interface, no cgroup. */
import { rm, rmdir } from "node:fs/promises";
import { run } from "../../src/host/run.js";
import { busybox } from "../support/manifests.js";
import { left, processes, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

test("after a reboot pods are NotReady, can be removed, and new ones run", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  await podvm().removePod((await podvm().podWith()).podId); // makes what stays: bridge, chains, folders
  const before = await snapshot(podvm());
  const { podId, id } = await podvm().podWith({ command: ["sh", "-c", "echo before; exec sleep 3600"] });
  await until("the line is in the log", 10_000, async () => (await crictl.run("logs", id)) === "before");
  await reboot(podId);
  await podvm().start();

  t.is((await crictl.inspectp(podId)).state, "SANDBOX_NOTREADY");
  const status = await crictl.inspect(id);
  t.is(status.state, "CONTAINER_EXITED");
  t.not(status.exitCode, 0);
  t.is(await crictl.run("logs", id), "before");
  t.is((await crictl.images()).length, 1, "images stay");
  await podvm().removePod(podId);
  const again = await podvm().podWith();
  t.is(await crictl.exec(again.id, "echo", "works"), "works");
  await podvm().removePod(again.podId);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});

async function reboot(podId: string): Promise<void> {
  await podvm().kill();
  for (const { pid } of processes(podvm())) process.kill(pid, "SIGKILL");
  await until("the VMMs are gone", 10_000, () => processes(podvm()).length === 0);
  for (const folder of (await snapshot(podvm())).cgroups.reverse()) await rmdir(folder);
  await rm(podvm().runDir, { recursive: true });
  await run(["ip", "netns", "del", `podvm-${podId.slice(0, 12)}`]);
  await run(["ip", "link", "del", podvm().bridge]);
}
