/** A Network of its own for each test, with the default configuration, and what stands in for guests, plugins and servers. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { newId } from "../../src/host/ids.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import { createNetwork, type NetworkOptions } from "../../src/network/create.js";
import { defaultConflist } from "../../src/network/default-conflist.js";
import type { Network, NetworkRequest, PodNetwork } from "../../src/network/network.js";
import { until } from "../support/until.js";
import { bundle, folder } from "./cni-host.js";

export const deadline = 60_000;
/** Owner of the taps. */
export const uid = 61_234;

export interface Rig {
  network: Network;
  options: NetworkOptions;
  confFile: string;
  leaseDir: string;
  bridge: string;
  gateway: string;
}

/** A Network of its own: random bridge and subnets, everything removed after the test. */
export async function rig(
  t: ExecutionContext,
  change: (conflist: { plugins: Record<string, unknown>[] }) => void = () => {},
): Promise<Rig> {
  const dir = folder(t);
  const tag = randomBytes(4).toString("hex");
  const bridge = `pv${tag}`;
  const [a, b] = randomBytes(2);
  const leaseDir = join(dir, "leases");
  await mkdir(leaseDir);
  const confDir = join(dir, "net.d");
  await mkdir(confDir);
  const conflist = JSON.parse(
    defaultConflist({
      subnet: `10.${a}.${b}.0/24`,
      subnet6: `fd00:${tag.slice(0, 4)}:${tag.slice(4)}::/64`,
      bridge,
      name: `net-${tag}`,
      leaseDir,
    }),
  );
  change(conflist);
  const confFile = join(confDir, "10-podvm.conflist");
  await writeFile(confFile, JSON.stringify(conflist));
  const options: NetworkOptions = {
    confDir,
    binDirs: [join(dir, "cni")],
    stateDir: join(dir, "state"),
    assets: { bundle: bundle() },
    logger: silentLogger,
  };
  const network = createNetwork(options);
  await network.open();
  t.teardown(async () => {
    network.close();
    for (const id of await network.list()) await network.teardown(id, deadline);
    await run(["ip", "link", "delete", bridge], { okCodes: [0, 1] });
  });
  return { network, options, confFile, leaseDir, bridge, gateway: `10.${a}.${b}.1` };
}

export function pod(name: string, more: Partial<NetworkRequest> = {}): NetworkRequest {
  return {
    podId: newId(),
    podNamespace: "default",
    podName: name,
    podUid: `uid-${name}`,
    portMappings: [],
    uid,
    ...more,
  };
}

/** A process of its own, to be killed, that makes the pod's network, or removes one it made; it prints when it begins with that. */
export function serverDoing(
  what: "setup" | "teardown",
  options: NetworkOptions,
  request: NetworkRequest,
): ChildProcess {
  const module = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
  const script = `
    import { createNetwork } from ${module("network/create.js")};
    import { silentLogger } from ${module("host/log.js")};
    const network = createNetwork({ ...${JSON.stringify({ ...options, logger: undefined })}, logger: silentLogger });
    await network.open();
    const steps = {
      setup: () => network.setup(${JSON.stringify(request)}, 60000),
      teardown: () => network.teardown(${JSON.stringify(request.podId)}, 60000),
    };
    ${what === "teardown" ? "await steps.setup();" : ""}
    console.log("begins");
    await steps.${what}();
    network.close();`;
  return spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

/** What `ip -n` takes for the path of a namespace. */
export const nameOf = (netns: string) => netns.split("/").at(-1) ?? "";

/** Addresses that are still tentative cannot be used: a second after the interface came up, they can. */
export async function settled(where: string[], device: string): Promise<void> {
  await until(`IPv6 addresses of ${device} past duplicate detection`, 10_000, async () => {
    const { stdout } = await run(["ip", ...where, "-6", "address", "show", "dev", device, "tentative"]);
    return stdout === "";
  });
}

/** Without the redirect the namespace's own stack answers, in the guest's place. */
export async function withoutGuest({ netns }: PodNetwork): Promise<void> {
  await run(["tc", "-n", nameOf(netns), "qdisc", "delete", "dev", "eth0", "clsact"]);
  await settled(["-n", nameOf(netns)], "eth0");
}

/** A plugin at the chain's end that writes down each call, then does what `extra` (Node) says. */
export async function spy(
  options: NetworkOptions,
  extra = "",
): Promise<() => Promise<{ command: string; env: Record<string, string>; config: Record<string, unknown> }[]>> {
  const [dir] = options.binDirs;
  await mkdir(dir ?? "", { recursive: true });
  const log = join(dir ?? "", "calls");
  await writeFile(log, "");
  await writeFile(
    join(dir ?? "", "spy"),
    `#!${process.execPath}
const fs = require("node:fs");
const command = process.env.CNI_COMMAND;
if (command === "VERSION") { console.log('{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'); process.exit(0); }
const config = JSON.parse(fs.readFileSync(0, "utf8"));
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => key.startsWith("CNI_")));
fs.appendFileSync(${JSON.stringify(log)}, JSON.stringify({ command, env, config }) + "\\n");
const answer = () => console.log(JSON.stringify(command === "ADD" ? config.prevResult : undefined) ?? "");
${extra || "answer();"}
`,
  );
  await chmod(join(dir ?? "", "spy"), 0o755);
  return async () =>
    (await readFile(log, "utf8"))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
}

export const withSpy = (conflist: { plugins: Record<string, unknown>[] }) =>
  conflist.plugins.push({ type: "spy", capabilities: { portMappings: true } });
