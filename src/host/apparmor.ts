/** AppArmor profiles of this node's kernel, as it keeps them: the compiled policy that was loaded (security/apparmor/apparmorfs.c, rawdata). */
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { errno, PodvmError } from "./errors.js";

export const SECURITYFS = "/sys/kernel/security";
/** What the agent takes. */
export const MAX_POLICY_BYTES = 4 << 20;
const MAX_NAME_BYTES = 4096;

/**
 * The policy that brought the profile of this name into the kernel, as apparmor_parser compiled it; it may hold other profiles too.
 * failed_precondition where the kernel has no AppArmor or has not kept the policy, not_found where no such profile is loaded.
 */
export async function loadedPolicy(name: string, securityfs = SECURITYFS): Promise<Buffer> {
  const what = `AppArmor profile ${JSON.stringify(name)}`;
  const profiles = join(securityfs, "apparmor/policy/profiles");
  let entries: string[];
  try {
    entries = await readdir(profiles);
  } catch (cause) {
    throw new PodvmError(
      "failed_precondition",
      `${what}: this node's kernel has no AppArmor, or securityfs is not mounted (${profiles}: ${errno(cause) ?? String(cause)}); ` +
        "take the profile out of the pod, or use a node with AppArmor",
      { cause },
    );
  }
  for (const entry of candidates(entries, name)) {
    if ((await nameOf(join(profiles, entry))) !== name) continue;
    return readPolicy(what, join(profiles, entry, "raw_data"));
  }
  throw new PodvmError("not_found", `${what} is not loaded on this node: load it with apparmor_parser -r`);
}

/** A profile's folder is its name, made fit for a file name, and ".N": those that begin alike first. */
function candidates(entries: readonly string[], name: string): string[] {
  const fit = name.replace(/^[/]+/, "").replace(/[^A-Za-z0-9_-]/g, ".");
  return [...entries].sort((a, b) => Number(b.startsWith(fit)) - Number(a.startsWith(fit)));
}

/** Undefined where the profile was unloaded meanwhile. */
async function nameOf(folder: string): Promise<string | undefined> {
  try {
    return (await readFile(join(folder, "name"), "utf8")).slice(0, MAX_NAME_BYTES).trimEnd();
  } catch (err) {
    if (errno(err) === "ENOENT") return undefined;
    throw err;
  }
}

/** Decompressed by the kernel as it is read; files of securityfs tell no size beforehand. */
async function readPolicy(what: string, path: string): Promise<Buffer> {
  try {
    const file = await open(path, "r");
    try {
      const policy = Buffer.alloc(MAX_POLICY_BYTES + 1);
      let length = 0;
      for (;;) {
        const { bytesRead } = await file.read(policy, length, policy.length - length);
        length += bytesRead;
        if (bytesRead === 0 || length === policy.length) break;
      }
      if (length > MAX_POLICY_BYTES) {
        throw new PodvmError("failed_precondition", `${what}: its policy has more than ${MAX_POLICY_BYTES} bytes`);
      }
      return policy.subarray(0, length);
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (errno(cause) !== "ENOENT") throw cause;
    throw new PodvmError(
      "failed_precondition",
      `${what} is loaded, but this kernel has not kept its compiled policy, which the pod's VM needs (no ${path}): the kernel needs ` +
        "CONFIG_SECURITY_APPARMOR_EXPORT_BINARY and the module parameter apparmor.export_binary=1",
      { cause },
    );
  }
}
