/** Network namespaces by iproute2, under names that `ip netns` shows. Each exec costs 2–3 ms, hence the batches. */
import { statfs } from "node:fs/promises";
import { errno } from "../host/errors.js";
import { run } from "../host/run.js";

/** Fixed in iproute2 (NETNS_RUN_DIR). */
const folder = "/run/netns";
/** statfs(2) type of a bound namespace; a plain file there is what a reboot or a broken unmount leaves. */
const nsfsMagic = 0x6e736673;

export interface IpTools {
  /** Paths of ip and tc. */
  ip: string;
  tc: string;
  env: NodeJS.ProcessEnv;
}

export function netnsPath(name: string): string {
  return `${folder}/${name}`;
}

export async function netnsExists(name: string): Promise<boolean> {
  try {
    return (await statfs(netnsPath(name))).type === nsfsMagic;
  } catch (err) {
    if (errno(err) === "ENOENT") return false;
    throw err;
  }
}

export async function createNetns(tools: IpTools, name: string, deadlineMs: number): Promise<void> {
  await run([tools.ip, "netns", "add", name], { deadlineMs, env: tools.env });
}

/** OK where there is none. Processes in it keep it alive, nameless, until they end. */
export async function removeNetns(tools: IpTools, name: string, deadlineMs: number): Promise<void> {
  try {
    await statfs(netnsPath(name));
  } catch (err) {
    if (errno(err) === "ENOENT") return;
    throw err;
  }
  await run([tools.ip, "netns", "delete", name], { deadlineMs, env: tools.env });
}
