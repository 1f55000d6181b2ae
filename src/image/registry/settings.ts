import { PodvmError } from "../../host/errors.js";

/** How to reach one registry; the key is its name as references have it, or "*" for those without settings of their own. */
export interface RegistrySettings {
  /** URLs (http or https, host[:port], optional path) to ask before the registry itself, in order. */
  mirrors?: string[];
  /** Speak plain HTTP. Default: only to loopback names. */
  plainHttp?: boolean;
  /** PEM file of the certificate authorities to trust, instead of the system's. */
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
  const own = lookUp(config, registry) ?? {};
  const all = lookUp(config, "*") ?? {};
  const mirrors = own.mirrors ?? all.mirrors ?? [];
  const endpoints = mirrors.map((text) => mirrorEndpoint(text, config));
  const host = registry === "docker.io" ? "registry-1.docker.io" : registry;
  const plain = own.plainHttp ?? (all.plainHttp === true || isLoopback(host));
  endpoints.push({
    url: `${plain ? "http" : "https"}://${host}`,
    upstream: true,
    credentialsKey: registry,
    insecureTls: own.insecureTls ?? false,
    ...(own.caFile === undefined ? {} : { caFile: own.caFile }),
  });
  return endpoints;
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
  const settings = lookUp(config, url.host) ?? {};
  return {
    url: `${url.protocol}//${url.host}${url.pathname.replace(/\/+$/, "")}`,
    upstream: false,
    credentialsKey: url.host,
    insecureTls: settings.insecureTls ?? false,
    ...(settings.caFile === undefined ? {} : { caFile: settings.caFile }),
  };
}

function isLoopback(host: string): boolean {
  return /^(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?$/.test(host);
}
