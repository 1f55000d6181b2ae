import { NamespaceMode, type NamespaceOption, type PodSandboxConfig, Protocol } from "../gen/runtime/v1/api.js";
import { expandCgroupParent } from "../host/cgroup.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { PortMapping } from "../network/network.js";
import type { PidMode, PodConfig } from "../pod/types.js";
import type { HostNamespace } from "../vmm/vmm.js";
import { absolutePath, bad, hostName, integer, list, objectName, required, stringMap, text } from "./checks.js";
import { refuseSelinux } from "./parse-profiles.js";
import { parseResources } from "./parse-resources.js";
import { parseSysctls } from "./parse-sysctls.js";
import { parseUserNamespace } from "./parse-userns.js";

const PID_MODES: Record<number, PidMode> = {
  [NamespaceMode.POD]: "pod",
  [NamespaceMode.CONTAINER]: "container",
  [NamespaceMode.NODE]: "node",
  [NamespaceMode.TARGET]: "target",
};

export function parsePidMode(what: string, mode: NamespaceMode): PidMode {
  const parsed = PID_MODES[mode];
  if (!parsed) throw bad(what, "POD, CONTAINER, NODE or TARGET", mode);
  return parsed;
}

/** Which namespaces of the host the pod asks for; a pod in a VM cannot have any of them: src/pod/host-policy.ts decides. */
export function hostNamespaces(options: NamespaceOption | undefined): HostNamespace[] {
  const wanted: HostNamespace[] = [];
  if (options?.network === NamespaceMode.NODE) wanted.push("network");
  if (options?.pid === NamespaceMode.NODE) wanted.push("pid");
  if (options?.ipc === NamespaceMode.NODE) wanted.push("ipc");
  return wanted;
}

/**
 * CRI's PodSandboxConfig as the domain's type. Rejects what is malformed (invalid_argument), and what PodVM does not give
 * (failed_precondition), each by name.
 */
export function parseSandbox(config: PodSandboxConfig | undefined, runtimeHandler: string): PodConfig {
  if (!config?.metadata) throw bad("config.metadata", "name, namespace, uid and attempt", "none");
  const { metadata, linux } = config;
  const security = linux?.securityContext;
  const fromHost = hostNamespaces(security?.namespaceOptions);
  refuseSelinux(security?.selinuxOptions);
  const userNamespace = parseUserNamespace(security?.namespaceOptions?.usernsOptions);
  if (userNamespace && security?.namespaceOptions?.pid === NamespaceMode.NODE) {
    throw bad("config.linux.security_context.namespace_options", "no pid mode NODE with a user namespace", "both");
  }
  const parsed: PodConfig = {
    name: objectName("config.metadata.name", metadata.name),
    uid: required("config.metadata.uid", metadata.uid, 253),
    namespace: objectName("config.metadata.namespace", metadata.namespace),
    attempt: metadata.attempt,
    hostname: hostName("config.hostname", config.hostname),
    logDirectory: absolutePath("config.log_directory", config.logDirectory, true),
    labels: stringMap("config.labels", config.labels),
    annotations: stringMap("config.annotations", config.annotations),
    runtimeHandler: text("runtime_handler", runtimeHandler, 128),
    portMappings: list("config.port_mappings", config.portMappings, 1024).flatMap(parsePort),
    cgroupParent: parseCgroupParent(linux?.cgroupParent ?? ""),
    sysctls: parseSysctls(linux?.sysctls ?? {}),
    pidMode: parsePidMode(
      "config.linux.security_context.namespace_options.pid",
      security?.namespaceOptions?.pid ?? NamespaceMode.POD,
    ),
  };
  if (userNamespace) parsed.userNamespace = userNamespace;
  if (fromHost.length > 0) parsed.hostNamespaces = fromHost;
  if (config.dnsConfig) {
    const { servers, searches, options } = config.dnsConfig;
    parsed.dns = {
      servers: list("config.dns_config.servers", servers, 32).map((s) => line("config.dns_config.servers", s)),
      searches: list("config.dns_config.searches", searches, 64).map((s) => line("config.dns_config.searches", s)),
      options: list("config.dns_config.options", options, 64).map((s) => line("config.dns_config.options", s)),
    };
  }
  if (linux?.resources) parsed.resources = parseResources("config.linux.resources", linux.resources);
  if (linux?.overhead) parsed.overhead = parseResources("config.linux.overhead", linux.overhead);
  return parsed;
}

/** One word of resolv.conf: white space in it could smuggle in another line. */
function line(what: string, value: string): string {
  if (!/^[^\s]{1,255}$/.test(value)) throw bad(what, "one word without white space", value);
  return value;
}

function parsePort(port: {
  protocol: Protocol;
  containerPort: number;
  hostPort: number;
  hostIp: string;
}): PortMapping[] {
  const protocol = ({ [Protocol.TCP]: "tcp", [Protocol.UDP]: "udp", [Protocol.SCTP]: "sctp" } as const)[
    port.protocol as 0 | 1 | 2
  ];
  if (!protocol) throw bad("config.port_mappings.protocol", "TCP, UDP or SCTP", port.protocol);
  const containerPort = integer("config.port_mappings.container_port", port.containerPort, 1, 65_535);
  const hostPort = integer("config.port_mappings.host_port", port.hostPort, 0, 65_535);
  if (hostPort === 0) return []; // declared only: nothing to map
  if (!/^[0-9a-fA-F.:]{0,45}$/.test(port.hostIp))
    throw bad("config.port_mappings.host_ip", "an address or nothing", port.hostIp);
  return [{ protocol, containerPort, hostPort, hostIp: port.hostIp }];
}

/** As a path: kubelet writes the name of a slice where systemd manages its cgroups. */
function parseCgroupParent(value: string): string {
  try {
    return value === "" ? "" : expandCgroupParent(value);
  } catch (cause) {
    throw new PodvmError("invalid_argument", `config.linux.cgroup_parent: ${messageOf(cause)}`, { cause });
  }
}
