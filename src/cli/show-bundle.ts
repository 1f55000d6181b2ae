import { loadConfig } from "../config/config.js";
import { locateAssets, readManifest } from "../host/locate-assets.js";
import type { CommonOptions } from "./options.js";
import { printJson, table } from "./output.js";

/** Prints what the manifests of the bundle and the guest image in use say. */
export async function showBundle(options: CommonOptions & { json?: boolean }): Promise<void> {
  const config = await loadConfig(options.config);
  const assets = await locateAssets(config.assetsDir);
  const [bundle, guest] = await Promise.all([readManifest(assets.bundle), readManifest(assets.guest)]);
  if (options.json)
    return printJson({ bundle: { path: assets.bundle, ...bundle }, guest: { path: assets.guest, ...guest } });
  const text = (value: unknown) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  const tools = Object.entries((bundle.tools ?? {}) as Record<string, unknown>);
  const rows = [
    ["bundle", text(bundle.digest), assets.bundle],
    ...tools.map(([name, version]) => [`  ${name}`, text(version), ""]),
    ["guest", text(guest.digest), assets.guest],
    ...Object.entries(guest)
      .filter(([key]) => ["kernel", "agent", "crun"].includes(key))
      .map(([key, value]) => [`  ${key}`, text(value), ""]),
  ];
  process.stdout.write(table(["WHAT", "VERSION", "WHERE"], rows));
}
