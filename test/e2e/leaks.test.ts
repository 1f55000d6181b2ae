/** Removal leaves nothing on the node. */
import { containerConfig } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";

const { test, podvm } = suite();

test("20 rounds of pods with containers, host port and exec leave the node as it was", async (t) => {
  t.timeout(1_200_000);
  const { crictl } = podvm();
  await podvm().warmUp();
  const round = async (n: number) => {
    const config = podvm().pod({ portMappings: [{ protocol: 0, container_port: 80, host_port: 20_000 + n }] });
    const pod = await crictl.runp(config);
    const id = await crictl.start(
      pod,
      containerConfig({ command: ["sh", "-c", "echo here; exec sleep 3600"] }),
      config,
    );
    t.is(await crictl.exec(id, "echo", String(n)), String(n));
    if (n % 4 === 0) await crictl.run("rmp", "--force", pod);
    else if (n % 4 === 1) await podvm().removePod(pod);
    else {
      await crictl.run("stop", "--timeout", n % 4 === 2 ? "0" : "5", id);
      await crictl.run("rm", id);
      await podvm().removePod(pod);
    }
  };
  await round(0); // makes what stays: bridge, chains, folders
  const before = await snapshot(podvm());
  for (let n = 1; n <= 20; n++) {
    await round(n);
    const rest = left(before, await snapshot(podvm()));
    if (Object.keys(rest).length > 0) {
      t.deepEqual(rest, {}, `after round ${n}`);
      return;
    }
  }
  t.deepEqual(before.processes, []);
  t.deepEqual(before.links, []);
  t.deepEqual(before.mounts, []);
  t.deepEqual(before.netns, []);
});

test("a pod removed with its containers still running is gone with all of them", async (t) => {
  const { crictl } = podvm();
  const before = await snapshot(podvm());
  const { config, podId } = await podvm().podWith();
  await crictl.start(podId, containerConfig(), config);
  await crictl.run("rmp", "--force", podId);
  t.deepEqual(await crictl.containers(), []);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});
