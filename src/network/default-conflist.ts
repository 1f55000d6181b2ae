/** The network that `make run` sets up where the node has none. */
import { isIP } from "node:net";
import { PodvmError } from "../host/errors.js";
import { isCidr } from "./result.js";

export interface DefaultConflist {
  /** IPv4 range of the pods: 10.88.0.0/16. */
  subnet: string;
  /** IPv6 range, for dual stack. */
  subnet6?: string;
  /** Name of the bridge: at most 15 characters. */
  bridge: string;
  /** Name of the network; also of host-local's folder of leases. Default "podvm". */
  name?: string;
  /** Where host-local keeps its leases. Default its own, /var/lib/cni/networks. */
  leaseDir?: string;
}

/**
 * Text of a conflist: bridge with gateway, masquerading and hairpin (a pod reaches itself by its host port), host-local,
 * portmap, firewall.
 * @throws PodvmError invalid_argument: a range or name that the plugins would refuse
 */
export function defaultConflist({ subnet, subnet6, bridge, name = "podvm", leaseDir }: DefaultConflist): string {
  const wanted = (family: 4 | 6, range: string) => {
    if (isCidr(range) && isIP(range.split("/")[0] ?? "") === family) return range;
    throw new PodvmError(
      "invalid_argument",
      `pod network: subnet ${range}: wanted an IPv${family} range with prefix length`,
    );
  };
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/.test(bridge)) {
    throw new PodvmError(
      "invalid_argument",
      `pod network: bridge ${bridge}: wanted an interface name of at most 15 characters`,
    );
  }
  const ranges = [[{ subnet: wanted(4, subnet) }]];
  const routes = [{ dst: "0.0.0.0/0" }];
  if (subnet6 !== undefined) {
    ranges.push([{ subnet: wanted(6, subnet6) }]);
    routes.push({ dst: "::/0" });
  }
  const conflist = {
    cniVersion: "1.0.0",
    name,
    plugins: [
      {
        type: "bridge",
        bridge,
        isGateway: true,
        ipMasq: true,
        hairpinMode: true,
        ipam: { type: "host-local", ranges, routes, ...(leaseDir === undefined ? {} : { dataDir: leaseDir }) },
      },
      { type: "portmap", capabilities: { portMappings: true }, snat: true },
      { type: "firewall" },
    ],
  };
  return `${JSON.stringify(conflist, null, 2)}\n`;
}
