import { type InstalledBundle, type InstalledGuest, listBundle } from "../bundle/list.js";
import { loadConfig } from "../config/config.js";
import { PodvmError } from "../host/errors.js";
import type { CommonOptions } from "./options.js";
import { printJson, table } from "./output.js";

/** Prints every installed bundle and guest image; new pods get the current ones, running pods keep what they began with. */
export async function showBundle(options: CommonOptions & { json?: boolean }): Promise<void> {
  const { assetsDir } = await loadConfig(options.config);
  const installed = await listBundle(assetsDir);
  if (options.json) return printJson(installed);
  if (installed.length === 0) {
    throw new PodvmError("not_found", `wanted a runtime bundle in ${assetsDir}, found none; run \`make setup\``);
  }
  process.stdout.write(table(["WHAT", "VERSION", "", "WHERE"], installed.flatMap(rows)));
}

function rows(asset: InstalledBundle | InstalledGuest): string[][] {
  const head = [asset.kind, asset.digest, asset.current ? "current" : "old", asset.path];
  if (!asset.current) return [head];
  const versions =
    asset.kind === "bundle"
      ? Object.entries(asset.manifest.tools)
      : [
          ["kernel", asset.manifest.kernel],
          ["crun", asset.manifest.crun],
          ["agent", `sha256:${asset.manifest.agentSha256.slice(0, 12)}`],
        ];
  return [head, ...versions.map(([name, version]) => [`  ${name}`, version ?? "", "", ""])];
}
