import {
  type ContainerConfig as CriContainerConfig,
  type LinuxContainerSecurityContext,
  NamespaceMode,
  Signal,
  SupplementalGroupsPolicy,
} from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import type { ContainerConfig, SecurityConfig } from "../pod/types.js";
import { absolutePath, bad, integer, list, objectName, relativePath, required, stringMap, text } from "./checks.js";
import { parseDevices, parseMounts } from "./parse-mounts.js";
import { parseAppArmor, parseSeccomp, refuseSelinux } from "./parse-profiles.js";
import { parseResources } from "./parse-resources.js";
import { parsePidMode } from "./parse-sandbox.js";
import { parseUserNamespace } from "./parse-userns.js";

const MAX_ID = 2 ** 31 - 1;

/** CRI's ContainerConfig as the domain's type; what is malformed or not given is rejected by name. */
export function parseContainer(config: CriContainerConfig | undefined): ContainerConfig {
  if (!config?.metadata) throw bad("config.metadata", "a name and an attempt", "none");
  const cdi = config.CDIDevices[0];
  if (cdi) throw new PodvmError("unimplemented", `config.CDI_devices: ${cdi.name}: CDI devices are not supported`);
  return {
    name: objectName("config.metadata.name", config.metadata.name),
    attempt: config.metadata.attempt,
    image: required("config.image.image", config.image?.image ?? "", 512),
    userSpecifiedImage: text("config.image.user_specified_image", config.image?.userSpecifiedImage ?? "", 512),
    command: list("config.command", config.command, 4096).map((word) => text("config.command", word, 128 * 1024)),
    args: list("config.args", config.args, 4096).map((word) => text("config.args", word, 128 * 1024)),
    workingDir: absolutePath("config.working_dir", config.workingDir, true),
    env: list("config.envs", config.envs, 8192).map((variable) => parseEnv(variable.key, variable.value)),
    labels: stringMap("config.labels", config.labels),
    annotations: stringMap("config.annotations", config.annotations),
    logPath: relativePath("config.log_path", config.logPath),
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    tty: config.tty,
    stopSignal: parseSignal(config.stopSignal),
    resources: parseResources("config.linux.resources", config.linux?.resources),
    security: parseSecurity(config.linux?.securityContext),
    mounts: parseMounts(config.mounts),
    devices: parseDevices(config.devices),
  };
}

function parseEnv(key: string, value: Buffer): { key: string; value: string } {
  if (key === "" || key.includes("=")) throw bad("config.envs", "a name without '='", key);
  return {
    key: text("config.envs key", key, 32 * 1024),
    value: text(`config.envs ${key}`, value.toString("utf8"), 128 * 1024),
  };
}

function parseSignal(signal: Signal): string {
  if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) return "";
  const name: string | undefined = Signal[signal];
  if (!name?.startsWith("SIGNAL_SIG")) throw bad("config.stop_signal", "a signal", signal);
  return name.slice("SIGNAL_".length);
}

export function parseSecurity(context: LinuxContainerSecurityContext | undefined): SecurityConfig {
  const parsed: SecurityConfig = {
    privileged: context?.privileged ?? false,
    addCapabilities: capabilities("add_capabilities", context?.capabilities?.addCapabilities ?? []),
    dropCapabilities: capabilities("drop_capabilities", context?.capabilities?.dropCapabilities ?? []),
    addAmbientCapabilities: capabilities(
      "add_ambient_capabilities",
      context?.capabilities?.addAmbientCapabilities ?? [],
    ),
    runAsUsername: text("security_context.run_as_username", context?.runAsUsername ?? "", 256),
    supplementalGroups: list("security_context.supplemental_groups", context?.supplementalGroups ?? [], 1024).map(
      (group) => integer("security_context.supplemental_groups", group, 0, MAX_ID),
    ),
    strictGroups: context?.supplementalGroupsPolicy === SupplementalGroupsPolicy.Strict,
    readonlyRootfs: context?.readonlyRootfs ?? false,
    noNewPrivileges: context?.noNewPrivs ?? false,
    maskedPaths: paths("masked_paths", context?.maskedPaths ?? []),
    readonlyPaths: paths("readonly_paths", context?.readonlyPaths ?? []),
    pidMode: parsePidMode(
      "security_context.namespace_options.pid",
      context?.namespaceOptions?.pid ?? NamespaceMode.POD,
    ),
    pidTarget: text("security_context.namespace_options.target_id", context?.namespaceOptions?.targetId ?? "", 64),
    seccomp: parseSeccomp(context?.seccomp, context?.seccompProfilePath ?? ""),
    apparmor: parseAppArmor(context?.apparmor, context?.apparmorProfile ?? ""),
  };
  const userns = context?.namespaceOptions?.usernsOptions;
  if (userns) parsed.userNamespace = parseUserNamespace(userns) ?? "node";
  if (context?.runAsUser)
    parsed.runAsUser = integer("security_context.run_as_user", context.runAsUser.value, 0, MAX_ID);
  if (context?.runAsGroup) {
    parsed.runAsGroup = integer("security_context.run_as_group", context.runAsGroup.value, 0, MAX_ID);
    if (parsed.runAsUser === undefined && !parsed.runAsUsername) {
      // CRI: "run_as_group should only be specified when run_as_user or run_as_username is specified; otherwise, the runtime MUST error."
      throw bad("security_context.run_as_group", "run_as_user or run_as_username beside it", "neither");
    }
  }
  refuseSelinux(context?.selinuxOptions);
  return parsed;
}

function capabilities(what: string, names: readonly string[]): string[] {
  return list(`security_context.capabilities.${what}`, names, 64).map((name) => {
    const upper = name.toUpperCase();
    const full = upper === "ALL" || upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
    if (!/^(ALL|CAP_[A-Z0-9_]{1,32})$/.test(full))
      throw bad(`security_context.capabilities.${what}`, "the name of a capability", name);
    return full;
  });
}

function paths(what: string, values: readonly string[]): string[] {
  return list(`security_context.${what}`, values, 256).map((value) => absolutePath(`security_context.${what}`, value));
}
