/**
 * The way between the interface that CNI made and the VM: a tap beside it, and everything that comes in on one goes out on the other
 * (tc, mirred redirect, before the namespace's own IP stack sees it). The guest takes the interface's MAC and addresses over.
 */
import { existsSync } from "node:fs";
import { PodvmError } from "../host/errors.js";
import { run } from "../host/run.js";
import { podInterface } from "./chain.js";
import type { IpTools } from "./netns.js";

export const tapName = "tap0";

/**
 * Makes the tap, persistent and owned by `uid`: a VMM of that user attaches to it without any capability.
 * No IPv6 on the tap itself (addrgenmode none), or the namespace would solicit routers into the guest.
 * The checksum and segmentation offloads need no copying: the VMM announces what the guest negotiated
 * (TUNSETOFFLOAD), and the kernel segments on the way for a guest that takes less than the veth sends.
 */
export async function createTap(
  tools: IpTools,
  netns: string,
  uid: number,
  mtu: number,
  deadlineMs: number,
): Promise<void> {
  const input = [
    "link set dev lo up",
    `tuntap add dev ${tapName} mode tap user ${uid} vnet_hdr`,
    ...(existsSync("/proc/sys/net/ipv6") ? [`link set dev ${tapName} addrgenmode none`] : []), // not with ipv6.disable=1
    `link set dev ${tapName} mtu ${mtu} up`,
  ].join("\n");
  await run([tools.ip, "-n", netns, "-batch", "-"], { deadlineMs, env: tools.env, input: `${input}\n` });
}

/** What createTap does besides, for a namespace that gets no tap. */
export async function loopbackUp(tools: IpTools, netns: string, deadlineMs: number): Promise<void> {
  await run([tools.ip, "-n", netns, "link", "set", "dev", "lo", "up"], { deadlineMs, env: tools.env });
}

/** Undoes redirect and createTap, but for the loopback interface. OK where there is none. */
export async function removeTap(tools: IpTools, netns: string, deadlineMs: number): Promise<void> {
  const { env } = tools;
  // "Invalid argument" and "No such file" are tc's words for a qdisc that is not there.
  const gone = [0, 1, 2];
  await run([tools.tc, "-n", netns, "qdisc", "del", "dev", podInterface, "clsact"], { deadlineMs, env, okCodes: gone });
  const { stdout } = await run([tools.ip, "-n", netns, "-br", "link", "show"], { deadlineMs, env });
  if (!stdout.split("\n").some((line) => line.startsWith(`${tapName} `))) return;
  await run([tools.ip, "-n", netns, "link", "del", "dev", tapName], { deadlineMs, env });
}

/** u32 with an empty match and not matchall: every kernel with tc has it. `replace`: a plugin may have put a clsact there. */
export async function redirect(tools: IpTools, netns: string, deadlineMs: number): Promise<void> {
  const oneWay = (from: string, to: string) => [
    `qdisc replace dev ${from} clsact`,
    `filter add dev ${from} ingress protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev ${to}`,
  ];
  const input = [...oneWay(podInterface, tapName), ...oneWay(tapName, podInterface)].join("\n");
  try {
    await run([tools.tc, "-n", netns, "-batch", "-"], { deadlineMs, env: tools.env, input: `${input}\n` });
  } catch (err) {
    if (!(err instanceof PodvmError) || err.code !== "internal") throw err;
    throw new PodvmError(
      "internal",
      `${err.message}. The host's kernel needs NET_SCH_INGRESS, NET_CLS_U32, NET_CLS_ACT and NET_ACT_MIRRED`,
      { cause: err },
    );
  }
}
