/** Control groups on this machine's own hierarchies. */
import { mkdir, readFile, rmdir } from "node:fs/promises";
import test from "ava";
import { findHierarchies, openCgroups } from "../../src/host/cgroup.js";
import { random } from "../support/manifests.js";

const rootTest = process.geteuid?.() === 0 ? test : test.skip;
if (process.geteuid?.() !== 0) console.log("skipped: control groups: not root");

rootTest("a group is found by its last part, below whatever parent, in one hierarchy or in all", async (t) => {
  const cgroups = await openCgroups();
  const hierarchies = await findHierarchies(await readFile("/proc/self/mountinfo", "utf8"));
  const tag = `podvmt${random()}`;
  const leaf = `podvm-${random(10)}`;
  const parents = [`/${tag}`, `/${tag}/burstable`, `/${tag}/burstable/pod1`];
  t.teardown(async () => {
    for (const name of [`${parents[2]}/${leaf}`, ...parents.toReversed()]) {
      for (const { mountPoint } of hierarchies) await rmdir(`${mountPoint}${name}`).catch(() => {});
    }
  });
  t.deepEqual(await cgroups.find(leaf), []);
  for (const name of parents) {
    for (const { mountPoint } of hierarchies) await mkdir(`${mountPoint}${name}`, { recursive: true });
  }
  await cgroups.make(`${parents[2]}/${leaf}`);
  t.deepEqual(await cgroups.find(leaf), [`${parents[2]}/${leaf}`]);
  t.deepEqual(await cgroups.find(leaf.slice(0, -1)), [], "the whole of it");
  await cgroups.remove(`${parents[2]}/${leaf}`, 5000);
  await mkdir(`${hierarchies.at(-1)?.mountPoint}${parents[0]}/${leaf}`);
  t.deepEqual(await cgroups.find(leaf), [`${parents[0]}/${leaf}`]);
  await cgroups.remove(`${parents[0]}/${leaf}`, 5000);
  t.deepEqual(await cgroups.find(leaf), []);
});
