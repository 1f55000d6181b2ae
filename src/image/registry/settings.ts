import { PodvmError } from "../../host/errors.js";

/** How to reach one registry. The key is its name as references have it, or "*" for all without an entry of their own. */
export interface RegistrySettings {
  /** URLs (http or https, host[:port], optional path) to ask before the registry itself, in order. */
  mirrors?: string[];
  /** Speak plain HTTP. Default: only to loopback names. */
  plainHttp?: boolean;
  /** PEM file of certificate authorities to trust, beside the system's. */
  caFile?: string;
  /** Take any certificate. */
  insecureTls?: boolean;
}

export type RegistriesConfig = Record<string, RegistrySettings>;

/** One place that may hold an image. */
export interface Endpoint {
  /** http(s)://host[:port][/path], no slash at the end */
  url: string;
  /** Is it the registry itself? Only that is shown the credentials that came for it. */
  upstream: boolean;
  /** Name under which a docker configuration file would hold its credentials. */
  credentialsKey: string;
  caFile?: string;
  insecureTls: boolean;
}

/** The places to ask for images of `registry`, mirrors first. Throws invalid_argument for a mirror that is no URL. */
export function endpointsFor(registry: string, config: RegistriesConfig): Endpoint[] {
  const own = lookUp(config, registry);
  const settings = own ?? lookUp(config, "*") ?? {};
  const host = registry === "docker.io" ? "registry-1.docker.io" : registry;
  // A "*" that does not ask for plain HTTP says nothing of loopback; an entry of a loopback registry's own does.
  const plain = (own === undefined ? settings.plainHttp || undefined : own.plainHttp) ?? isLoopback(host);
  const upstream = { url: `${plain ? "http" : "https"}://${host}`, upstream: true, credentialsKey: registry };
  const mirrors = (settings.mirrors ?? []).map((text) => mirrorEndpoint(text, config));
  return [...mirrors, { ...upstream, ...tlsOf(settings) }];
}

function tlsOf({ caFile, insecureTls = false }: RegistrySettings): Pick<Endpoint, "caFile" | "insecureTls"> {
  return { insecureTls, ...(caFile === undefined ? {} : { caFile }) };
}

function lookUp(config: RegistriesConfig, key: string): RegistrySettings | undefined {
  return Object.hasOwn(config, key) ? config[key] : undefined;
}

function mirrorEndpoint(text: string, config: RegistriesConfig): Endpoint {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new PodvmError("invalid_argument", `registry mirror ${JSON.stringify(text)} is no URL`, { cause });
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new PodvmError("invalid_argument", `registry mirror ${JSON.stringify(text)} is neither http:// nor https://`);
  }
  return {
    url: `${url.protocol}//${url.host}${url.pathname.replace(/\/+$/, "")}`,
    upstream: false,
    credentialsKey: url.host,
    ...tlsOf(lookUp(config, url.host) ?? lookUp(config, "*") ?? {}),
  };
}

function isLoopback(host: string): boolean {
  return /^(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?$/.test(host);
}
