import { readdir, readFile } from "node:fs/promises";
import * as v from "valibot";
import { pruneAssets } from "../bundle/prune.js";
import { loadConfig } from "../config/config.js";
import { hasCode } from "../host/errors.js";
import { type Clients, call } from "./client.js";
import { withClients } from "./connect.js";
import type { ClientOptions } from "./options.js";

/** Removes bundles and guest images that are neither current nor used by the server, by a pod, or by any process of this machine. */
export async function pruneBundle(options: ClientOptions): Promise<void> {
  const { assetsDir, socket } = await loadConfig(options.config);
  const used = await withClients({ socket, ...options }, usedByServer).catch((err) => {
    // No server: the next one takes the current assets, and the processes tell what VMs use.
    if (hasCode(err, "unavailable")) return [];
    throw err;
  });
  const removed = await pruneAssets(assetsDir, [...used, ...(await usedByProcesses())]);
  for (const path of removed) process.stdout.write(`removed ${path}\n`);
  if (removed.length === 0) process.stdout.write("nothing to remove\n");
}

const Folders = v.object({ bundle: v.string(), guest: v.string() });
const Status = v.object({ assets: Folders });

/** What a server that runs took at its start, and what its pods began with. */
async function usedByServer(clients: Clients): Promise<string[]> {
  const { info } = await call(clients, clients.runtime, "status", { verbose: true });
  const { assets } = v.parse(Status, JSON.parse(info.config ?? "{}"));
  const used = [assets.bundle, assets.guest];
  const { items } = await call(clients, clients.runtime, "listPodSandbox", {});
  for (const { id } of items) {
    const answer = await call(clients, clients.runtime, "podSandboxStatus", { podSandboxId: id, verbose: true }).catch(
      (err) => {
        if (hasCode(err, "not_found")) return undefined; // removed since it was listed
        throw err;
      },
    );
    if (!answer) continue;
    const pod = v.parse(Folders, JSON.parse(answer.info.info ?? "{}"));
    used.push(pod.bundle, pod.guest);
  }
  return used;
}

/** Asset folders that command lines name: those of VMMs name both. */
async function usedByProcesses(): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => ""))); // it has ended
  return lines.flatMap(assetFoldersIn);
}

/** "…/bundle/0123456789abcdef" and "…/guest/…" in a command line as /proc has it. */
export function assetFoldersIn(commandLine: string): string[] {
  return commandLine.match(/\/[^\0,=:]*\/(?:bundle|guest)\/[0-9a-f]{16}(?![0-9a-f])/g) ?? [];
}
