/** What the host's kernel must offer: tried, not looked up, since modules load on demand and configurations lie. */
import { randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import type { Config } from "../../config/config.js";
import { type Assets, bundleTool } from "../../host/assets.js";
import { openCgroups } from "../../host/cgroup.js";
import { messageOf } from "../../host/errors.js";
import { run } from "../../host/run.js";
import { podInterface } from "../../network/chain.js";
import { createNetns, type IpTools, removeNetns } from "../../network/netns.js";
import { createTap, redirect } from "../../network/tap.js";
import { type Finding, fail, ok, warn } from "./finding.js";

const stepMs = 10_000;

export async function cgroupFinding(): Promise<Finding> {
  try {
    const { version, controllers } = await openCgroups();
    const lacking = ["cpu", "memory", "pids"].filter((one) => !controllers.includes(one));
    const found = `cgroup v${version}`;
    if (lacking.length > 0)
      return warn("cgroups", `${found} without ${lacking.join(", ")}`, "enable them on the kernel's command line");
    if (version === 1)
      return warn(
        "cgroups",
        found,
        "kubelet 1.35 and newer needs failCgroupV1: false here; better, boot with cgroup v2",
      );
    return ok("cgroups", found);
  } catch (err) {
    return fail("cgroups", messageOf(err), "mount cgroup2 on /sys/fs/cgroup");
  }
}

export async function tunFinding(): Promise<Finding> {
  try {
    await (await open("/dev/net/tun", "r+")).close();
    return ok("tun device", "/dev/net/tun opens");
  } catch (err) {
    return fail("tun device", messageOf(err), "modprobe tun");
  }
}

/** Makes in a network namespace of its own what a pod's network needs, step by step, and removes it. */
export async function networkFindings(config: Config, assets: Assets): Promise<Finding[]> {
  const env = { ...process.env, PATH: `${assets.bundle}/bin:${process.env.PATH ?? ""}` };
  const tools: IpTools = { ip: bundleTool(assets, "ip"), tc: bundleTool(assets, "tc"), env };
  const netns = `podvm-check-${randomBytes(4).toString("hex")}`;
  const ip = (...args: string[]) => run([tools.ip, "-n", netns, ...args], { deadlineMs: stepMs, env });
  const steps: { name: string; advice: string; work: () => Promise<unknown> }[] = [
    {
      name: "network namespaces",
      advice: "needs root and CONFIG_NET_NS",
      work: () => createNetns(tools, netns, stepMs),
    },
    {
      name: "veth",
      advice: "modprobe veth",
      work: () => ip("link", "add", podInterface, "type", "veth", "peer", "name", "peer0"),
    },
    { name: "bridge", advice: "modprobe bridge", work: () => ip("link", "add", "br0", "type", "bridge") },
    { name: "tap", advice: "modprobe tun", work: () => createTap(tools, netns, config.vm.uidBase, 1500, stepMs) },
    {
      name: "tc redirect",
      advice: "modprobe sch_ingress cls_u32 act_mirred",
      work: () => redirect(tools, netns, stepMs),
    },
  ];
  const findings: Finding[] = [];
  try {
    for (const { name, advice, work } of steps) {
      try {
        await work();
        findings.push(ok(name, "works"));
      } catch (err) {
        findings.push(fail(name, messageOf(err), advice));
        if (name === "network namespaces") break; // the rest would fail for the same reason
      }
    }
  } finally {
    await removeNetns(tools, netns, stepMs).catch((err) => {
      findings.push(
        warn("network namespaces", `${netns} is left behind: ${messageOf(err)}`, `ip netns delete ${netns}`),
      );
    });
  }
  return findings;
}
