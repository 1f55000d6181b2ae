/** The one check of what the CRI side asks for: afterwards every value fits into CNI's environment and JSON. */
import { isIP } from "node:net";
import { PodvmError } from "../host/errors.js";
import type { NetworkRequest, PortMapping } from "./network.js";

const maxMappings = 1024;
const protocols: readonly string[] = ["tcp", "udp", "sctp"];

/**
 * @returns a copy without the port mappings that have no host port
 * @throws PodvmError invalid_argument naming the field
 */
export function checkRequest(request: NetworkRequest): NetworkRequest {
  const { podId, podNamespace, podName, podUid, portMappings, uid } = request;
  checkPodId(podId);
  // ";" and "=" are CNI_ARGS' own: with them a pod's name could forge another pod's identity towards the plugins.
  for (const [what, value] of Object.entries({ podNamespace, podName, podUid })) {
    if (value.length > 1024 || /[;=\p{Cc}]/u.test(value)) {
      throw invalid(
        `${what} ${JSON.stringify(value.slice(0, 80))}: wanted at most 1024 characters without ";", "=" and control characters`,
      );
    }
  }
  if (!Number.isSafeInteger(uid) || uid < 0 || uid > 0xffff_fffe) throw invalid(`uid ${uid}: wanted 0 to 4294967294`);
  if (portMappings.length > maxMappings)
    throw invalid(`${portMappings.length} port mappings: wanted at most ${maxMappings}`);
  return {
    podId,
    podNamespace,
    podName,
    podUid,
    uid,
    ...(request.withoutVm && { withoutVm: true }),
    portMappings: portMappings.filter((one) => one.hostPort !== 0).map(checkMapping),
  };
}

/** The id names a file, a namespace, and goes into the plugins' environment. */
export function checkPodId(podId: string): void {
  if (!/^[a-z0-9][a-z0-9-]{0,63}$/.test(podId)) {
    throw invalid(`pod id ${JSON.stringify(podId.slice(0, 80))}: wanted 1 to 64 characters of a-z, 0-9, "-"`);
  }
}

function checkMapping({ protocol, containerPort, hostPort, hostIp }: PortMapping): PortMapping {
  for (const [what, port] of Object.entries({ hostPort, containerPort })) {
    if (!Number.isInteger(port) || port < 1 || port > 65535) throw invalid(`${what} ${port}: wanted 1 to 65535`);
  }
  if (!protocols.includes(protocol))
    throw invalid(`protocol ${protocol} of host port ${hostPort}: wanted tcp, udp or sctp`);
  if (hostIp !== "" && isIP(hostIp) === 0)
    throw invalid(`address ${hostIp.slice(0, 80)} of host port ${hostPort}: wanted an IP address or none`);
  return { protocol, containerPort, hostPort, hostIp };
}

function invalid(message: string): PodvmError {
  return new PodvmError("invalid_argument", `pod network: ${message}`);
}
