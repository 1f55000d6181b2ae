/**
 * What a CNI plugin's ADD answers, in one form for all versions of the specification ("Success", CNI SPEC section 5).
 * Plugins run as root, yet their answers are checked: a malformed one must end as an error that names the plugin.
 */
import { isIP } from "node:net";
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import { atLeast, type CniVersion, isCniVersion, supportedVersions } from "./versions.js";

const text = (max: number) => v.pipe(v.string(), v.maxLength(max));
const count = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff_ffff));
const list = <T extends v.GenericSchema>(item: T, max: number) => v.nullish(v.pipe(v.array(item), v.maxLength(max)));

const ip = v.pipe(
  text(64),
  v.check((value) => isIP(value) !== 0, "is no IP address"),
);
const cidr = v.pipe(
  text(64),
  v.check((value) => isCidr(value), "is no address with prefix length"),
);

const interfaceSchema = v.object({
  name: text(64),
  mac: v.nullish(text(64)),
  mtu: v.nullish(count),
  sandbox: v.nullish(text(4096)),
  socketPath: v.nullish(text(4096)),
  pciID: v.nullish(text(64)),
});
const ipSchema = v.object({
  address: cidr,
  gateway: v.nullish(v.union([ip, v.literal("")])),
  interface: v.nullish(count),
});
const routeSchema = v.object({
  dst: cidr,
  gw: v.nullish(v.union([ip, v.literal("")])),
  mtu: v.nullish(count),
  advmss: v.nullish(count),
  priority: v.nullish(count),
  table: v.nullish(count),
  scope: v.nullish(count),
});
const dnsSchema = v.object({
  nameservers: list(text(256), 64),
  domain: v.nullish(text(256)),
  search: list(text(256), 64),
  options: list(text(256), 64),
});
const resultSchema = v.object({
  cniVersion: v.nullish(text(32)),
  interfaces: list(interfaceSchema, 64),
  ips: list(ipSchema, 64),
  routes: list(routeSchema, 1024),
  dns: v.nullish(dnsSchema),
});

/** The newest version's form; `cniVersion` is not part of it (see `toVersion`). */
export interface CniResult {
  interfaces: { name: string; mac?: string; mtu?: number; sandbox?: string; socketPath?: string; pciID?: string }[];
  ips: { address: string; gateway?: string; interface?: number }[];
  routes: {
    dst: string;
    gw?: string;
    mtu?: number;
    advmss?: number;
    priority?: number;
    table?: number;
    scope?: number;
  }[];
  dns: { nameservers: string[]; domain?: string; search: string[]; options: string[] };
}

export function isCidr(value: string): boolean {
  const [address, prefix, ...more] = value.split("/");
  const family = isIP(address ?? "");
  if (family === 0 || more.length > 0 || prefix === undefined || !/^\d{1,3}$/.test(prefix)) return false;
  return Number(prefix) <= (family === 4 ? 32 : 128);
}

/**
 * @param value the parsed JSON of a plugin's answer
 * @param who "plugin bridge", for the error
 * @throws PodvmError internal: not a result, or of a version that is not spoken here
 */
export function parseResult(value: unknown, who: string): CniResult {
  const parsed = v.safeParse(resultSchema, value);
  if (!parsed.success) {
    throw new PodvmError("internal", `${who}: its answer is no CNI result: ${issuesOf(parsed.issues)}`);
  }
  const { cniVersion, interfaces, ips, routes, dns } = parsed.output;
  if (cniVersion && !isCniVersion(cniVersion)) {
    throw new PodvmError("internal", `${who}: answered in CNI version ${cniVersion}, known are ${supportedVersions}`);
  }
  const result: CniResult = {
    interfaces: (interfaces ?? []).map(withoutEmpty),
    ips: (ips ?? []).map(withoutEmpty),
    routes: (routes ?? []).map(withoutEmpty),
    dns: {
      nameservers: dns?.nameservers ?? [],
      search: dns?.search ?? [],
      options: dns?.options ?? [],
      ...(dns?.domain ? { domain: dns.domain } : {}),
    },
  };
  for (const { address, interface: index } of result.ips) {
    if (index !== undefined && index >= result.interfaces.length) {
      throw new PodvmError(
        "internal",
        `${who}: address ${address} is said to be on interface ${index}, there are ${result.interfaces.length}`,
      );
    }
  }
  return result;
}

/** The result as a plugin of that version reads it in `prevResult`. */
export function toVersion(result: CniResult, version: CniVersion): Record<string, unknown> {
  if (atLeast(version, "1.1.0")) return { cniVersion: version, ...result };
  return {
    cniVersion: version,
    interfaces: result.interfaces.map(({ name, mac, sandbox }) => withoutEmpty({ name, mac, sandbox })),
    ips: result.ips.map((one) =>
      atLeast(version, "1.0.0") ? one : { version: isIP(one.address.split("/")[0] ?? "") === 6 ? "6" : "4", ...one },
    ),
    routes: result.routes.map(({ dst, gw }) => withoutEmpty({ dst, gw })),
    dns: result.dns,
  };
}

/** The first few problems of a valibot check in one line, each with its path. */
export function issuesOf(issues: readonly v.BaseIssue<unknown>[]): string {
  const shown = issues.slice(0, 3).map((issue) => {
    const path = v.getDotPath(issue);
    return path ? `${path}: ${issue.message}` : issue.message;
  });
  if (issues.length > shown.length) shown.push(`${issues.length - shown.length} more`);
  return shown.join("; ").slice(0, 1000);
}

type Filled<T> = { [K in keyof T]: NonNullable<T[K]> };
type OptionalKeys<T> = { [K in keyof T]: null extends T[K] ? K : undefined extends T[K] ? K : never }[keyof T];
type WithoutEmpty<T> = Omit<T, OptionalKeys<T>> & Partial<Filled<Pick<T, OptionalKeys<T>>>>;

/** Plugins write absent fields as null, "" or not at all; here they are absent. */
function withoutEmpty<T extends object>(value: T): WithoutEmpty<T> {
  return Object.fromEntries(
    Object.entries(value).filter(([, field]) => field !== undefined && field !== null && field !== ""),
  ) as WithoutEmpty<T>;
}
