/** Folders, space, assets, CNI, the server: what belongs to this installation. */
import { access, constants, readFile, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { readBundleManifest, readGuestManifest } from "../../bundle/manifest.js";
import type { Config } from "../../config/config.js";
import type { Assets } from "../../host/assets.js";
import { errno, messageOf, PodvmError } from "../../host/errors.js";
import { silentLogger } from "../../host/log.js";
import { ConfigWatcher } from "../../network/watcher.js";
import { call, connect } from "../client.js";
import { size } from "../output.js";
import { type Finding, fail, ok, warn } from "./finding.js";

const gib = 2 ** 30;

export async function diskFinding(config: Config): Promise<Finding> {
  const folder = await existing(config.stateDir);
  const { bavail, bsize } = await statfs(folder);
  const free = bavail * bsize;
  const found = `${size(free)} free for ${config.stateDir}`;
  if (free < 2 * gib)
    return fail(
      "disk space",
      found,
      "images and pods' disks live there: make room, or set state_dir to another file system",
    );
  if (free < 10 * gib) return warn("disk space", found, "images and pods' disks live there");
  return ok("disk space", found);
}

/** VMM processes of users of their own must reach their files. */
export async function passableFinding(config: Config): Promise<Finding> {
  for (let folder = await existing(config.stateDir); folder !== "/"; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0 && folder !== config.stateDir) {
      return warn(
        "state folder",
        `${folder} may not be entered by other users`,
        `VMMs run as users of their own: chmod o+x ${folder}`,
      );
    }
  }
  return ok("state folder", config.stateDir);
}

export async function assetFindings(assets: Assets): Promise<Finding[]> {
  const [bundle, guest] = await Promise.all([readBundleManifest(assets.bundle), readGuestManifest(assets.guest)]);
  const versions = ["qemu", "kernel", "erofs-utils", "cni-plugins"].map(
    (tool) => `${tool} ${bundle.tools[tool] ?? "?"}`,
  );
  return [
    ok("runtime bundle", `${bundle.digest}: ${versions.join(", ")}`),
    ok("guest image", `${guest.digest}: kernel ${guest.kernel}`),
  ];
}

export async function cniFinding(config: Config, assets: Assets): Promise<Finding> {
  const binDirs = [...new Set([...config.network.binDirs, `${assets.bundle}/cni`])];
  const env = { ...process.env, PATH: `${assets.bundle}/bin:${process.env.PATH ?? ""}` };
  const watcher = new ConfigWatcher({
    confDir: config.network.confDir,
    chain: { binDirs, env },
    logger: silentLogger,
    rescanMs: 3_600_000,
  });
  try {
    await watcher.look();
    const status = watcher.status();
    if (status.ready) return ok("CNI network", `${status.configuration} in ${config.network.confDir}`);
    return fail("CNI network", status.message, "install a CNI network, or write PodVM's own: podvm config init");
  } finally {
    watcher.close();
  }
}

export async function serverFindings(config: Config): Promise<Finding[]> {
  const clients = connect(config.socket);
  try {
    const version = await call(clients, clients.runtime, "version", { version: "v1" }, 5_000);
    const { status } = await call(clients, clients.runtime, "status", { verbose: false }, 5_000);
    const findings = [ok("server", `${version.runtimeName} ${version.runtimeVersion} answers on ${config.socket}`)];
    for (const condition of status?.conditions ?? []) {
      if (condition.status) continue;
      findings.push(warn("server", `${condition.type} is false: ${condition.reason} ${condition.message}`.trim()));
    }
    return findings;
  } catch (err) {
    if (!(err instanceof PodvmError)) throw err;
    return [warn("server", err.message)];
  } finally {
    clients.close();
  }
}

/** What the configuration and the machine give up of isolation. */
export function configRelaxations(config: Config): Finding[] {
  const findings: Finding[] = [];
  for (const [name, registry] of Object.entries(config.image.registries)) {
    if (registry.insecureTls)
      findings.push(
        warn("isolation", `registry ${name}: certificates are not verified`, "set ca_file instead of insecure_tls"),
      );
    if (registry.plainHttp && !/^(localhost|127\.|\[::1\])/.test(name)) {
      findings.push(
        warn(
          "isolation",
          `registry ${name}: plain HTTP`,
          "anyone on the way can replace an image that is pulled by tag",
        ),
      );
    }
  }
  if (config.socketMode & 0o007) {
    findings.push(
      warn(
        "isolation",
        `the socket's mode 0${config.socketMode.toString(8)} lets every user in`,
        "whoever opens it is root in effect: set socket_mode to 0600 or 0660",
      ),
    );
  }
  return findings;
}

export async function ksmFinding(): Promise<Finding[]> {
  const running = await readFile("/sys/kernel/mm/ksm/run", "utf8").catch((err) => {
    if (errno(err) === "ENOENT") return "0";
    throw err;
  });
  if (running.trim() !== "1") return [];
  return [
    warn(
      "isolation",
      "kernel samepage merging is on",
      "one guest can learn from timing what another holds: echo 0 > /sys/kernel/mm/ksm/run",
    ),
  ];
}

/** The nearest folder above that exists. */
async function existing(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    try {
      await access(folder, constants.F_OK);
      return folder;
    } catch (err) {
      if (folder === "/") throw new PodvmError("internal", messageOf(err), { cause: err });
    }
  }
}
