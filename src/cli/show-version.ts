import { readBundleManifest, readGuestManifest } from "../bundle/manifest.js";
import { loadConfig } from "../config/config.js";
import { PodvmError } from "../host/errors.js";
import { locateAssets } from "../host/locate-assets.js";
import { podvmVersion } from "../host/version.js";
import { call } from "./client.js";
import { withClients } from "./connect.js";
import type { ClientOptions } from "./options.js";
import { printJson, table } from "./output.js";

/** Prints versions of the command, of Node, of the server where one answers, and of the assets where they are. */
export async function showVersion(options: ClientOptions & { json?: boolean }): Promise<void> {
  const config = await loadConfig(options.config);
  const server = await withClients({ socket: config.socket, ...options }, async (clients) => {
    const answer = await call(clients, clients.runtime, "version", { version: "v1" }, 5_000);
    return { version: answer.runtimeVersion, criVersion: answer.runtimeApiVersion };
  }).catch(absent("unavailable"));
  const assets = await locateAssets(config.assetsDir).catch(absent("failed_precondition"));
  const bundle = assets && (await readBundleManifest(assets.bundle));
  const guest = assets && (await readGuestManifest(assets.guest));
  const versions = { podvm: podvmVersion(), node: process.versions.node, server, bundle, guest };
  if (options.json) return printJson(versions);
  const tools = Object.entries(bundle?.tools ?? {});
  const rows = [
    ["podvm", versions.podvm],
    ["node", versions.node],
    ["server", server ? `${server.version} (CRI ${server.criVersion})` : "not running"],
    ["runtime bundle", bundle ? bundle.digest : "not installed: make setup"],
    ...tools.map(([name, version]) => [`  ${name}`, version]),
    ["guest image", guest ? guest.digest : "not installed: make setup"],
  ];
  process.stdout.write(table(["WHAT", "VERSION"], rows));
}

function absent(code: string): (err: unknown) => undefined {
  return (err) => {
    if (err instanceof PodvmError && err.code === code) return undefined;
    throw err;
  };
}
