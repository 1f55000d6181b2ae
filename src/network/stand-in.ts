import { run } from "../host/run.js";
import { podInterface } from "./chain.js";
import { createNetns, type IpTools } from "./netns.js";
import type { CniResult } from "./result.js";

/**
 * For DEL where the pod's namespace is gone without one: makes a namespace in which an interface that leads nowhere carries the
 * pod's addresses. `bridge` (as of 1.9) takes its masquerading away by the addresses that it finds there, and with no namespace leaves it, for
 * the address's next owner to meet. The caller removes the namespace.
 */
export async function standIn(tools: IpTools, netns: string, result: CniResult, deadlineMs: number): Promise<void> {
  await createNetns(tools, netns, deadlineMs);
  const addresses = result.ips.map(({ address }) => `address add ${address} dev ${podInterface}`);
  const input = [`tuntap add dev ${podInterface} mode tap`, ...addresses].join("\n");
  await run([tools.ip, "-n", netns, "-batch", "-"], { deadlineMs, env: tools.env, input: `${input}\n` });
}
