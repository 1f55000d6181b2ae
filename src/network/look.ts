/** What a CNI plugin left in the namespace, as the kernel has it: the guest gets exactly that. */
import { isIP } from "node:net";
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { run } from "../host/run.js";
import { podInterface } from "./chain.js";
import type { IpTools } from "./netns.js";
import type { GuestInterface, GuestRoute } from "./network.js";
import { issuesOf } from "./result.js";

// Output of `ip -json`. Fields that are not used are not looked at.
const linkSchema = v.object({
  address: v.string(),
  mtu: v.number(),
  link_type: v.string(),
  addr_info: v.array(
    v.object({ family: v.string(), local: v.optional(v.string()), prefixlen: v.number(), scope: v.string() }),
  ),
});
const routeSchema = v.looseObject({
  dst: v.string(),
  type: v.optional(v.string()),
  gateway: v.optional(v.string()),
  protocol: v.optional(v.string()),
});
const routesSchema = v.array(routeSchema);

export interface Look {
  interface: GuestInterface;
  routes: GuestRoute[];
  /** How many more interfaces than lo and eth0 the namespace has; they stay without a tap. */
  others: number;
}

export async function lookAt(tools: IpTools, netns: string, logger: Logger, deadlineMs: number): Promise<Look> {
  const options = { deadlineMs, env: tools.env };
  const [first, second] = await Promise.all([
    run([tools.ip, "-json", "-n", netns, "-batch", "-"], {
      ...options,
      input: `address show\nroute show dev ${podInterface}\n`,
    }),
    run([tools.ip, "-json", "-6", "-n", netns, "route", "show", "dev", podInterface], options),
  ]);
  const [links, routes4] = arraysOf(first.stdout);
  const [routes6] = arraysOf(second.stdout);
  const named = (links ?? []).filter(
    (one): one is { ifname: string } => typeof one === "object" && one !== null && "ifname" in one,
  );
  const found = named.find((one) => one.ifname === podInterface);
  if (!found) {
    throw new PodvmError(
      "internal",
      `CNI ADD succeeded, but there is no ${podInterface} in namespace ${netns}; found ${named.map((one) => one.ifname).join(", ")}`,
    );
  }
  const link = parse(linkSchema, found, "address show");
  if (link.link_type !== "ether") {
    throw new PodvmError(
      "internal",
      `${podInterface} in namespace ${netns} is of type ${link.link_type}; wanted ether: a VM's NIC is an Ethernet card`,
    );
  }
  return {
    interface: { name: podInterface, mac: link.address, mtu: link.mtu, addresses: addressesOf(link.addr_info) },
    routes: [...routesOf(routes4 ?? [], 4, link.mtu, logger), ...routesOf(routes6 ?? [], 6, link.mtu, logger)],
    others: named.length - named.filter((one) => one.ifname === "lo" || one.ifname === podInterface).length,
  };
}

/** Link-local addresses follow from the MAC: the guest makes its own. */
function addressesOf(infos: v.InferOutput<typeof linkSchema>["addr_info"]): string[] {
  return infos.flatMap(({ local, prefixlen, scope }) =>
    local && isIP(local) && scope !== "link" ? [`${local}/${prefixlen}`] : [],
  );
}

/** Directly connected ones first: gateways must be reachable when their route is set. */
function routesOf(value: unknown[], family: 4 | 6, mtu: number, logger: Logger): GuestRoute[] {
  const routes: GuestRoute[] = [];
  for (const route of parse(routesSchema, value, "route show")) {
    // The kernel adds these to the guest's addresses as well, and routers will advertise to the guest itself.
    if (route.protocol === "kernel" || route.protocol === "ra") continue;
    const destination = prefixOf(route.dst, family);
    if (
      (route.type !== undefined && route.type !== "unicast") ||
      "nexthops" in route ||
      "via" in route ||
      !destination
    ) {
      logger.warn("route of the pod's namespace not carried over to the guest: neither direct nor by one gateway", {
        route,
      });
      continue;
    }
    routes.push({ destination, gateway: route.gateway ?? "", interface: podInterface, mtu });
  }
  return routes.sort((a, b) => Number(a.gateway !== "") - Number(b.gateway !== ""));
}

function prefixOf(dst: string, family: 4 | 6): string | undefined {
  if (dst === "default") return family === 4 ? "0.0.0.0/0" : "::/0";
  if (isIP(dst) === family) return `${dst}/${family === 4 ? 32 : 128}`;
  return isIP(dst.split("/")[0] ?? "") === family ? dst : undefined;
}

/** `ip -json -batch` prints one array per command, each on lines of its own. */
function arraysOf(stdout: string): unknown[][] {
  try {
    return stdout
      .trim()
      .split(/\n(?=\[)/)
      .filter((text) => text !== "")
      .map((text) => JSON.parse(text) as unknown[]);
  } catch (cause) {
    throw new PodvmError("internal", `cannot read what ip -json printed: ${stdout.slice(0, 200)}`, { cause });
  }
}

function parse<T extends v.GenericSchema>(schema: T, value: unknown, what: string): v.InferOutput<T> {
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  throw new PodvmError("internal", `cannot read what ip ${what} printed: ${issuesOf(parsed.issues)}`);
}
