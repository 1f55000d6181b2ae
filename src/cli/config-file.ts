import { mkdir, readdir } from "node:fs/promises";
import { dirname } from "node:path";
import { type Config, defaultConfigPath, defaultConfigText, loadConfig } from "../config/config.js";
import { errno } from "../host/errors.js";
import { readFileIfThere, writeFileAtomic } from "../host/files.js";
import { defaultConflist } from "../network/default-conflist.js";
import type { CommonOptions } from "./options.js";
import { printJson } from "./output.js";

/** Writes what is missing: the configuration file, then, where its CNI folder has no configuration, a bridge network. */
export async function initConfig(options: CommonOptions): Promise<void> {
  const path = options.config ?? defaultConfigPath;
  if ((await readFileIfThere(path)) === undefined) {
    await mkdir(dirname(path), { recursive: true });
    await writeFileAtomic(path, defaultConfigText(), 0o644);
    process.stdout.write(`wrote ${path}\n`);
  } else {
    process.stdout.write(`${path} exists: kept\n`);
  }
  const config = await loadConfig(path);
  const written = await initNetwork(config.network.confDir);
  process.stdout.write(written ? `wrote ${written}\n` : `${config.network.confDir} holds a network: kept\n`);
}

/** Path of the conflist written, or undefined where there is any CNI configuration already. */
async function initNetwork(confDir: string): Promise<string | undefined> {
  const names = await readdir(confDir).catch((err) => {
    if (errno(err) === "ENOENT") return [];
    throw err;
  });
  if (names.some((name) => /\.(conflist|conf|json)$/.test(name))) return undefined;
  await mkdir(confDir, { recursive: true });
  const path = `${confDir}/10-podvm.conflist`;
  const text = defaultConflist({ subnet: "10.88.0.0/16", subnet6: "fd00:88::/64", bridge: "podvm0" });
  await writeFileAtomic(path, text, 0o644);
  return path;
}

export async function showConfig(options: CommonOptions): Promise<void> {
  const config: Config = await loadConfig(options.config);
  printJson({ ...config, socketMode: `0${config.socketMode.toString(8)}` });
}

/** Loads it, which rejects with every fault. */
export async function checkConfig(options: CommonOptions): Promise<void> {
  await loadConfig(options.config);
  process.stdout.write(`${options.config ?? defaultConfigPath}: no faults\n`);
}
