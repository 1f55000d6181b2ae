/** A node whose disk is full must still be able to get rid of pods, and to restart its server: that is how it gets free again. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { busybox, containerConfig } from "../support/manifests.js";
import { left, processes, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, server } = suite();

test("on a full disk the server restarts, and pods are stopped, reported dead and removed", async (t) => {
  t.timeout(600_000);
  const own = await server(t);
  const { crictl } = own;
  // A file system of its own for the state.
  const disk = join(own.dir, "disk");
  await run(["truncate", "-s", "300M", disk]);
  await run(["mkfs.ext4", "-q", "-m", "0", disk]);
  await run(["mount", "-o", "loop", disk, own.stateDir]);
  t.teardown(async () => {
    await run(["umount", "-l", own.stateDir], { okCodes: [0, 1, 32] });
  });
  const fill = async () => {
    for (const size of ["1M", "4k", "512"]) {
      await run(
        [
          "dd",
          "if=/dev/zero",
          `of=${join(own.stateDir, `filler-${size}`)}`,
          `bs=${size}`,
          "oflag=append",
          "conv=notrunc",
        ],
        {
          okCodes: [1],
          deadlineMs: 120_000,
        },
      );
    }
    await run(["sync", "-f", own.stateDir]);
  };
  const free = () =>
    Promise.all(["1M", "4k", "512"].map((size) => rm(join(own.stateDir, `filler-${size}`), { force: true })));

  await own.start();
  await crictl.run("pull", busybox);
  const linux = { cgroup_parent: own.cgroupParent };
  await own.removePod((await own.podWith({}, { linux })).podId); // makes what stays: bridge, chains, folders
  const before = await snapshot(own);
  const stopped = await own.podWith(
    { command: ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"] },
    { linux },
  );
  const killed = await own.podWith({}, { linux });
  const made = await crictl.create(killed.podId, containerConfig(), killed.config);
  await fill();

  await own.restart();
  t.is(await crictl.exec(stopped.id, "echo", "goes on"), "goes on");
  await crictl.run("start", made).catch(() => {});
  await crictl.run("stop", "--timeout", "10", stopped.id);
  t.is((await crictl.inspect(stopped.id)).exitCode, 7);

  const pid = Number(JSON.parse(await crictl.run("inspectp", killed.podId)).info.pid);
  t.true(processes(own).some((one) => one.pid === pid));
  process.kill(pid, "SIGKILL");
  await until("both containers are reported as exited", 20_000, async () => {
    const states = await Promise.all([killed.id, made].map(async (id) => (await crictl.inspect(id)).state));
    return states.every((state) => state === "CONTAINER_EXITED");
  });
  t.is((await crictl.inspectp(killed.podId)).state, "SANDBOX_NOTREADY");
  for (const { podId } of [stopped, killed]) await own.removePod(podId);
  t.deepEqual(await crictl.pods(), []);

  await free();
  const rest = left(before, await snapshot(own));
  t.deepEqual(rest, {});
  const again = await own.podWith({}, { linux });
  t.is(await crictl.exec(again.id, "echo", "works"), "works");
});
