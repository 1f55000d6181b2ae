/** The PodVM of a cluster that has one of its own. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { defaultConflist } from "../../src/network/default-conflist.js";
import { podvmMain, tool } from "../support/tools.js";
import { until } from "../support/until.js";
import type { ClusterOptions } from "./options.js";
import { type Started, start, upAndRunning } from "./processes.js";

const configPath = ({ dir }: ClusterOptions) => join(dir, "podvm.toml");
const socketPath = ({ runDir }: ClusterOptions) => join(runDir, "podvm.sock");
const podvm = (options: ClusterOptions, ...args: string[]) =>
  [process.execPath, podvmMain, ...args, "--config", configPath(options)] as [string, ...string[]];

export const serveArgv = (options: ClusterOptions) => podvm(options, "serve");

/** Configuration and network; @returns the socket's path. */
export async function writeServerConfig(options: ClusterOptions): Promise<string> {
  const { dir, runDir, podCidr, podBridge, mirror } = options;
  const net = join(dir, "net.d");
  await mkdir(net, { recursive: true });
  const leaseDir = join(dir, "leases");
  await writeFile(
    join(net, "10-podvm.conflist"),
    defaultConflist({ subnet: podCidr, bridge: podBridge, name: podBridge, leaseDir }),
  );
  const registries = mirror
    ? `[image.registries."*"]\nmirrors = ["${mirror}"]\n[image.registries."${new URL(mirror).host}"]\nplain_http = true\n`
    : "";
  // Beside the user ids of a PodVM that the node may have already.
  await writeFile(
    configPath(options),
    `state_dir = "${join(dir, "podvm")}"
run_dir = "${runDir}"
socket = "${socketPath(options)}"
assets_dir = "${tool("assets")}"
[network]
conf_dir = "${net}"
[vm]
uid_base = 4000000
uid_count = 1000
start_timeout_seconds = 120
${registries}`,
  );
  return socketPath(options);
}

/** Every pod of this server, whose process is started again for that if it has gone. */
export async function removePods(options: ClusterOptions, server: Started): Promise<void> {
  const crictl = [tool("crictl"), "-r", `unix://${socketPath(options)}`, "-t", "120s"] as const;
  const all = () => run([...crictl, "rmp", "--all", "--force"], { deadlineMs: 300_000 });
  try {
    await all();
  } catch {
    const again = await start(options.dir, "podvm", serveArgv(options));
    Object.assign(server, again);
    await upAndRunning(options.dir, again, 120_000, async () => {
      return (await run([...crictl, "pods", "-q"], { okCodes: [0, 1] })).code === 0;
    });
    await until("every pod is removed", 300_000, async () => (await all()).code === 0);
  }
}
