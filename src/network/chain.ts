/** ADD, DEL and STATUS of a whole network (SPEC section 3): its plugins in order, each seeing the result of the one before. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { Budget } from "../host/budget.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { NetworkList, PluginConfig } from "./config.js";
import type { PortMapping } from "./network.js";
import { type CniCommand, runPlugin } from "./plugin.js";
import { type CniResult, parseResult, toVersion } from "./result.js";
import { atLeast } from "./versions.js";

/** The pod's side of a call. */
export interface Attachment {
  podId: string;
  podNamespace: string;
  podName: string;
  podUid: string;
  portMappings: PortMapping[];
  /** Path of the network namespace, "" where it is gone (DEL only). */
  netns: string;
}

export interface ChainOptions {
  /** Folders with plugins, the first that has one wins. */
  binDirs: string[];
  /** Environment of the plugins: PATH leads to iptables and ip. */
  env: NodeJS.ProcessEnv;
}

/** Name of the pod's interface in its namespace and in the guest. */
export const podInterface = "eth0";
const versionDeadlineMs = 5_000;

/**
 * @param onResult awaited after each plugin with the result so far, before the next one runs. Whatever happens from then on, DEL
 *   needs it: plugins such as firewall undo by what their prevResult says and do nothing without
 * @throws PodvmError as `runPlugin`; plugins that ran before the failing one keep what they made until `delNetwork`
 */
export async function addNetwork(
  list: NetworkList,
  pod: Attachment,
  options: ChainOptions,
  deadlineMs: number,
  onResult: (result: CniResult) => Promise<void>,
): Promise<void> {
  const budget = new Budget(deadlineMs, "CNI ADD");
  let result: CniResult | undefined;
  for (const plugin of list.plugins) {
    const answer = await call("ADD", list, plugin, pod, result, options, budget.left());
    result = parseResult(answer ?? {}, `CNI plugin ${plugin.type} (ADD)`);
    await onResult(result);
  }
}

/**
 * In reverse order; the first failure ends it, as in libcni: plugins before it may need what it did not undo.
 * @param result the last that `addNetwork` handed out, undefined where not even the first plugin answered
 */
export async function delNetwork(
  list: NetworkList,
  pod: Attachment,
  result: CniResult | undefined,
  options: ChainOptions,
  deadlineMs: number,
): Promise<void> {
  const budget = new Budget(deadlineMs, "CNI DEL");
  const previous = atLeast(list.cniVersion, "0.4.0") ? result : undefined; // DEL has a prevResult since 0.4.0
  for (const plugin of [...list.plugins].reverse()) {
    await call("DEL", list, plugin, pod, previous, options, budget.left());
  }
}

/**
 * Whether the network's plugins are there, speak its version and (since 1.1.0) say that they are ready.
 * @throws PodvmError failed_precondition or unavailable, with what to do
 */
export async function checkNetwork(list: NetworkList, options: ChainOptions): Promise<void> {
  for (const { type } of list.plugins) {
    const program = await find(type, options.binDirs);
    const versions = await spoken(program, options.env);
    if (versions && !versions.includes(list.cniVersion)) {
      throw new PodvmError(
        "failed_precondition",
        `CNI network ${list.name} is of version ${list.cniVersion}; plugin ${program} speaks ${versions.join(", ").slice(0, 200)}. ` +
          "Lower the configuration's cniVersion or install newer plugins",
      );
    }
  }
}

/** @throws PodvmError unavailable: a plugin says that it cannot serve an ADD now */
export async function statusOfNetwork(list: NetworkList, options: ChainOptions, deadlineMs: number): Promise<void> {
  if (!atLeast(list.cniVersion, "1.1.0")) return;
  const budget = new Budget(deadlineMs, "CNI STATUS");
  for (const plugin of list.plugins) {
    await runPlugin({
      command: "STATUS",
      program: await find(plugin.type, options.binDirs),
      config: pluginInput(list, plugin, [], undefined),
      parameters: { CNI_PATH: options.binDirs.join(":") },
      env: options.env,
      deadlineMs: budget.left(),
    });
  }
}

/** Whether some plugin of the network takes port mappings. */
export function mapsPorts(list: NetworkList): boolean {
  return list.plugins.some((plugin) => plugin.capabilities?.portMappings === true);
}

async function call(
  command: CniCommand,
  list: NetworkList,
  plugin: PluginConfig,
  pod: Attachment,
  previous: CniResult | undefined,
  options: ChainOptions,
  deadlineMs: number,
): Promise<unknown> {
  return runPlugin({
    command,
    program: await find(plugin.type, options.binDirs),
    config: pluginInput(list, plugin, pod.portMappings, previous),
    parameters: {
      CNI_CONTAINERID: pod.podId,
      CNI_NETNS: pod.netns,
      CNI_IFNAME: podInterface,
      CNI_PATH: options.binDirs.join(":"),
      // The names are those that kubelet's runtimes have always passed; plugins (Multus, Calico, Cilium) look the pod up by them.
      CNI_ARGS: [
        "IgnoreUnknown=1",
        `K8S_POD_NAMESPACE=${pod.podNamespace}`,
        `K8S_POD_NAME=${pod.podName}`,
        `K8S_POD_INFRA_CONTAINER_ID=${pod.podId}`,
        `K8S_POD_UID=${pod.podUid}`,
      ].join(";"),
    },
    env: options.env,
    deadlineMs,
  });
}

/** The configuration as the plugin gets it: SPEC section 3, "Deriving execution configuration from plugin configuration". */
function pluginInput(
  list: NetworkList,
  plugin: PluginConfig,
  portMappings: PortMapping[],
  previous: CniResult | undefined,
): Record<string, unknown> {
  const input: Record<string, unknown> = { ...plugin, name: list.name, cniVersion: list.cniVersion };
  if (previous) input.prevResult = toVersion(previous, list.cniVersion);
  if (plugin.capabilities?.portMappings && portMappings.length > 0) {
    input.runtimeConfig = {
      portMappings: portMappings.map(({ hostPort, containerPort, protocol, hostIp }) => ({
        hostPort,
        containerPort,
        protocol,
        ...(hostIp ? { hostIP: hostIp } : {}),
      })),
    };
  }
  return input;
}

async function find(type: string, binDirs: string[]): Promise<string> {
  for (const dir of binDirs) {
    try {
      await access(`${dir}/${type}`, constants.X_OK);
      return `${dir}/${type}`;
    } catch {
      // not in this one: the next, and after the last the error below
    }
  }
  throw new PodvmError(
    "failed_precondition",
    `CNI plugin ${type}: no such program in ${binDirs.join(", ")}. Install it there`,
  );
}

/** What VERSION answers; undefined for a plugin that does not know the command (it has to be tried). */
async function spoken(program: string, env: NodeJS.ProcessEnv): Promise<string[] | undefined> {
  let answer: unknown;
  try {
    answer = await runPlugin({
      command: "VERSION",
      program,
      config: { cniVersion: "1.0.0" },
      // Plugins built with an old library ask for all parameters even here (libcni sends the same dummies).
      parameters: { CNI_NETNS: "dummy", CNI_IFNAME: "dummy", CNI_PATH: "dummy" },
      env,
      deadlineMs: versionDeadlineMs,
    });
  } catch (err) {
    const said = messageOf(err);
    if (/unknown CNI_COMMAND/i.test(said)) return undefined;
    throw new PodvmError("failed_precondition", said, { cause: err });
  }
  if (typeof answer !== "object" || answer === null || !("supportedVersions" in answer)) return undefined;
  const versions: unknown = answer.supportedVersions;
  return Array.isArray(versions) ? versions.filter((one): one is string => typeof one === "string") : undefined;
}
