import { readFile } from "node:fs/promises";
import { PodvmError } from "./errors.js";

/** Number of a group that is given by number or by its name in /etc/group (group(5)); not_found where there is none. */
export async function groupNumber(group: string): Promise<number> {
  if (/^\d{1,10}$/.test(group)) return Number(group);
  for (const line of (await readFile("/etc/group", "utf8")).split("\n")) {
    const [name, , gid] = line.split(":");
    if (name === group && gid !== undefined && /^\d+$/.test(gid)) return Number(gid);
  }
  throw new PodvmError(
    "not_found",
    `there is no group ${JSON.stringify(group)} in /etc/group: make it (groupadd --system ${group}), or name another in socket_group`,
  );
}
