/** CRI's UserNamespace: which range of ids a pod's users are. */
import { type UserNamespace as CriUserNamespace, type IDMapping, NamespaceMode } from "../gen/runtime/v1/api.js";
import type { UserNamespace } from "../pod/types.js";
import { bad, integer } from "./checks.js";

const WHAT = "namespace_options.userns_options";
/** The highest id is no id: (uid_t) -1, user_namespaces(7). */
const MAX = 2 ** 32 - 1;

/**
 * Undefined without options and for NODE. CRI: "currently supports only POD and NODE". PodVM takes exactly one range of uids and one of gids, from
 * 0 on, of equal sizes, as other runtimes do.
 */
export function parseUserNamespace(options: CriUserNamespace | undefined): UserNamespace | undefined {
  if (!options) return undefined;
  if (options.mode === NamespaceMode.NODE) {
    if (options.uids.length + options.gids.length > 0)
      throw bad(`${WHAT}.uids and gids`, "none with mode NODE", "some");
    return undefined;
  }
  if (options.mode !== NamespaceMode.POD) throw bad(`${WHAT}.mode`, "POD or NODE", NamespaceMode[options.mode]);
  return checked(range(`${WHAT}.uids`, options.uids), range(`${WHAT}.gids`, options.gids), WHAT);
}

/** The mappings of an id-mapped mount; undefined where it has none. CRI: both or neither. */
export function parseMappings(
  what: string,
  uids: readonly IDMapping[],
  gids: readonly IDMapping[],
): UserNamespace | undefined {
  if (uids.length === 0 && gids.length === 0) return undefined;
  return checked(range(`${what}: uidMappings`, uids), range(`${what}: gidMappings`, gids), what);
}

interface Range {
  base: number;
  size: number;
}

function checked(uids: Range, gids: Range, what: string): UserNamespace {
  if (uids.size !== gids.size) {
    throw bad(`${what}: gids`, `a mapping as long as that of the uids (${uids.size})`, gids.size);
  }
  return { uidBase: uids.base, gidBase: gids.base, size: uids.size };
}

function range(what: string, mappings: readonly IDMapping[]): Range {
  const [mapping] = mappings;
  if (!mapping || mappings.length !== 1) throw bad(what, "exactly one mapping", `${mappings.length}`);
  if (mapping.containerId !== 0) throw bad(`${what}.container_id`, "0", mapping.containerId);
  const size = integer(`${what}.length`, mapping.length, 1, MAX);
  // The guest's root is the agent: no id of the pod may be its.
  const base = integer(`${what}.host_id`, mapping.hostId, 1, MAX - size);
  return { base, size };
}
