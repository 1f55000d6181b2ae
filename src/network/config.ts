/** CNI network configurations (SPEC section 1), read from the text of a file. */
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import { issuesOf } from "./result.js";
import { type CniVersion, cniVersions, isCniVersion, supportedVersions } from "./versions.js";

/** One plugin's part of the configuration; every key is handed to the plugin as it is written. */
export interface PluginConfig {
  type: string;
  capabilities?: Record<string, boolean>;
  [key: string]: unknown;
}

/** A network: what ADD and DEL run, in this order and in reverse. Plain JSON: it is kept in each pod's record. */
export interface NetworkList {
  name: string;
  cniVersion: CniVersion;
  plugins: PluginConfig[];
}

export const maxConfigBytes = 1 << 20;
const maxPlugins = 32;

// The expressions are libcni's (pkg/utils/utils.go and its check against path separators in a type).
const nameOf = (what: string) =>
  v.pipe(
    v.string(`wanted text: ${what}`),
    v.regex(
      /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$/,
      `wanted ${what}: letters, digits, "_", ".", "-", beginning with a letter or digit`,
    ),
  );
const versionFields = {
  cniVersion: v.optional(v.string("wanted text")),
  cniVersions: v.optional(v.pipe(v.array(v.string("wanted text")), v.maxLength(64))),
};
const pluginSchema = v.looseObject({
  type: nameOf("the plugin's program name"),
  capabilities: v.nullish(v.record(v.string(), v.boolean("wanted true or false"))),
});
const listSchema = v.looseObject({
  ...versionFields,
  name: nameOf("the network's name"),
  plugins: v.pipe(
    v.array(pluginSchema, "wanted a list of plugins"),
    v.minLength(1, "wanted at least one plugin"),
    v.maxLength(maxPlugins, `wanted at most ${maxPlugins} plugins`),
  ),
});
const singleSchema = v.looseObject({ ...versionFields, ...pluginSchema.entries, name: nameOf("the network's name") });

/**
 * @param file its name decides the form: `.conflist` is a list of plugins, `.conf` and `.json` one plugin
 * @throws PodvmError invalid_argument naming the file, the field, what was wanted
 */
export function parseConfig(file: string, content: string): NetworkList {
  const fail = (why: string) => new PodvmError("invalid_argument", `CNI configuration ${file}: ${why}`);
  if (content.length > maxConfigBytes) throw fail(`larger than ${maxConfigBytes} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(content);
  } catch (err) {
    throw fail(`not JSON: ${err instanceof Error ? err.message : String(err)}`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw fail("wanted a JSON object");

  if (file.endsWith(".conflist")) {
    if (!("plugins" in json)) throw fail(`has no "plugins"; a single plugin's configuration is a file named .conf`);
    const parsed = v.safeParse(listSchema, json);
    if (!parsed.success) throw fail(issuesOf(parsed.issues));
    const { name, plugins } = parsed.output;
    return { name, cniVersion: versionOf(parsed.output, fail), plugins: plugins.map(plugin) };
  }
  if ("plugins" in json) throw fail(`has "plugins"; a list of plugins is a file named .conflist`);
  const parsed = v.safeParse(singleSchema, json);
  if (!parsed.success) throw fail(issuesOf(parsed.issues));
  const { name, cniVersion, cniVersions: _, ...rest } = parsed.output;
  return { name, cniVersion: versionOf(parsed.output, fail), plugins: [plugin(rest)] };
}

function plugin(config: v.InferOutput<typeof pluginSchema>): PluginConfig {
  const { capabilities, ...rest } = config;
  return capabilities ? { ...rest, capabilities } : { ...rest };
}

/** The newest version that both the file and PodVM name (`cniVersions` exists since 1.1.0 for exactly that). */
function versionOf(
  config: { cniVersion?: string; cniVersions?: string[] },
  fail: (why: string) => PodvmError,
): CniVersion {
  const named = [...(config.cniVersions ?? []), ...(config.cniVersion === undefined ? [] : [config.cniVersion])];
  if (named.length === 0) throw fail(`has no "cniVersion"; wanted one of ${supportedVersions}`);
  const known = named.filter(isCniVersion).sort((a, b) => cniVersions.indexOf(b) - cniVersions.indexOf(a));
  const best = known[0];
  if (best === undefined)
    throw fail(`"cniVersion" is ${named.join(", ").slice(0, 200)}; wanted one of ${supportedVersions}`);
  return best;
}
