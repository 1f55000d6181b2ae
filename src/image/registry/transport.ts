import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";
import { createSecureContext, rootCertificates } from "node:tls";
import type { Agent } from "undici";
import { errno, messageOf, PodvmError } from "../../host/errors.js";
import type { Endpoint } from "./settings.js";

export interface HttpTimes {
  /** Milliseconds to a connection. */
  connectMs: number;
  /** Milliseconds without a byte after which a response counts as stalled. */
  stallMs: number;
}

export interface HttpRequest {
  method?: "GET" | "POST" | "HEAD";
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  status: number;
  headers: IncomingHttpHeaders;
  body: Readable;
  /** After redirects. */
  url: URL;
}

const maxRedirects = 5;
const redirects = new Set([301, 302, 303, 307, 308]);

/** HTTP to one endpoint: its TLS settings, time-outs, redirects. undici is loaded at the first request: it takes 200 ms. */
export class Transport {
  private agent: Promise<Agent> | undefined;

  constructor(
    private readonly endpoint: Pick<Endpoint, "caFile" | "insecureTls">,
    private readonly times: HttpTimes,
  ) {}

  /**
   * Follows up to five redirects; Authorization goes only to the host it was meant for, and https never becomes http.
   * Rejects with unavailable for what a retry may cure. The caller must consume or destroy `body`.
   */
  async request(url: URL, request: HttpRequest = {}): Promise<HttpResponse> {
    this.agent ??= this.makeAgent();
    const [{ request: send }, dispatcher] = await Promise.all([import("undici"), this.agent]);
    let target = url;
    const headers: Record<string, string> = { "user-agent": "podvm", ...request.headers };
    for (let hop = 0; ; hop++) {
      let response: Awaited<ReturnType<typeof send>>;
      try {
        response = await send(target, {
          dispatcher,
          method: request.method ?? "GET",
          headers,
          ...(request.body === undefined ? {} : { body: request.body }),
          ...(request.signal === undefined ? {} : { signal: request.signal }),
        });
      } catch (err) {
        throw transportError(err, target, request.signal);
      }
      const { statusCode: status, body } = response;
      body.on("error", () => {}); // a body that is dropped unread may still fail
      const location = response.headers.location;
      if (!redirects.has(status) || typeof location !== "string") {
        return { status, headers: response.headers, body, url: target };
      }
      body.destroy();
      target = redirectTarget(location, target, hop, headers);
    }
  }

  async close(): Promise<void> {
    const agent = await this.agent?.catch(() => undefined);
    await agent?.destroy();
  }

  private async makeAgent(): Promise<Agent> {
    const { connectMs, stallMs } = this.times;
    const { caFile, insecureTls } = this.endpoint;
    const { Agent, buildConnector } = await import("undici");
    const own = caFile === undefined ? undefined : await readAuthorities(caFile);
    const plain = buildConnector({ timeout: connectMs });
    let secure: typeof plain | undefined;
    const makeSecure = () => {
      // made once, not per connection: 150 certificates take a while to parse
      const secureContext = createSecureContext({ ca: [...systemAuthorities(), ...(own === undefined ? [] : [own])] });
      return buildConnector({ timeout: connectMs, secureContext, rejectUnauthorized: !insecureTls });
    };
    return new Agent({
      connect: (options, callback) => {
        if (options.protocol !== "https:") return plain(options, callback);
        secure ??= makeSecure();
        return secure(options, callback);
      },
      headersTimeout: stallMs,
      bodyTimeout: stallMs,
      connections: 16,
      maxHeaderSize: 32 * 1024,
    });
  }
}

async function readAuthorities(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new PodvmError("failed_precondition", `cannot read the registry's ca_file: ${messageOf(cause)}`, { cause });
  }
}

/** The authorities that this host trusts (where Debian and its kin keep them), else those that Node brings. */
function systemAuthorities(): readonly string[] {
  try {
    return [readFileSync("/etc/ssl/certs/ca-certificates.crt", "utf8")];
  } catch {
    return rootCertificates;
  }
}

function redirectTarget(location: string, from: URL, hop: number, headers: Record<string, string>): URL {
  if (hop >= maxRedirects) throw new PodvmError("unavailable", `${from.host}: more than ${maxRedirects} redirects`);
  if (!URL.canParse(location, from.href))
    throw new PodvmError("unavailable", `${from.host}: redirect to an invalid URL`);
  const target = new URL(location, from);
  if (target.protocol !== "https:" && target.protocol !== from.protocol) {
    throw new PodvmError(
      "unavailable",
      `${from.host} redirects from ${from.protocol} to ${target.protocol}, which is refused`,
    );
  }
  if (target.origin !== from.origin) delete headers.authorization;
  return target;
}

/** What went wrong below HTTP, in words that help: code, host, likely remedy. */
export function transportError(err: unknown, url: URL, signal?: AbortSignal): PodvmError {
  if (err instanceof PodvmError) return err;
  if (signal?.aborted) {
    return signal.reason instanceof PodvmError
      ? signal.reason
      : new PodvmError("cancelled", "pull cancelled", { cause: err });
  }
  const code = errno(err) ?? "";
  if (code === "UND_ERR_DESTROYED" || code === "UND_ERR_CLOSED") {
    return new PodvmError("cancelled", "the pull that fetched this has ended", { cause: err }); // no use in trying again
  }
  const hint = hints.find(([pattern]) => pattern.test(code))?.[1] ?? "";
  const message = messageOf(err) || code;
  return new PodvmError("unavailable", `${url.protocol}//${url.host}: ${message}${hint}`, { cause: err });
}

const hints: [RegExp, string][] = [
  [
    /^ERR_SSL_WRONG_VERSION_NUMBER|^ERR_SSL_PACKET_LENGTH_TOO_LONG|^EPROTO/,
    " (does it speak plain HTTP? set plain_http for it)",
  ],
  [/CERT|SIGNED|ISSUER|ALTNAME/, " (set ca_file for this registry to trust its authority)"],
  [/^ENOTFOUND|^EAI_AGAIN/, " (no such host: check the name and this node's DNS)"],
];
