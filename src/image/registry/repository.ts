import { PodvmError } from "../../host/errors.js";
import type { RegistryCredentials } from "../image.js";
import { Authorizer, readBounded } from "./auth.js";
import { backOff, retryAfter } from "./retry.js";
import type { Endpoint } from "./settings.js";
import { type HttpResponse, type HttpTimes, Transport } from "./transport.js";

export interface RepositoryOptions {
  endpoint: Endpoint;
  /** library/busybox */
  repository: string;
  credentials?: RegistryCredentials | undefined;
  times: HttpTimes;
  /** Tries per request, and per blob without any progress. */
  attempts: number;
}

const maxErrorBody = 64 * 1024;

/** Read access to one repository at one endpoint by the OCI distribution protocol. */
export class RepositoryClient {
  readonly attempts: number;
  readonly name: string;
  private readonly transport: Transport;
  private readonly authorizer: Authorizer;
  private readonly base: string;

  constructor(options: RepositoryOptions) {
    const { endpoint, repository, credentials, times, attempts } = options;
    this.attempts = attempts;
    this.transport = new Transport(endpoint, times);
    this.authorizer = new Authorizer(this.transport, repository, credentials);
    this.base = `${endpoint.url}/v2/${repository}`;
    this.name = this.base.replace("/v2/", "/");
  }

  /** One try. Authenticates when asked to; any other status is the caller's to judge. Rejects with unavailable where a retry may help. */
  async once(path: string, headers: Record<string, string>, signal?: AbortSignal): Promise<HttpResponse> {
    const url = new URL(`${this.base}/${path}`);
    for (let round = 0; ; round++) {
      const used = this.authorizer.current();
      const authorization: Record<string, string> = used === undefined ? {} : { authorization: used };
      const response = await this.transport.request(url, { headers: { ...headers, ...authorization }, signal });
      if (response.status !== 401) return response;
      response.body.destroy();
      if (round === 2 || response.url.origin !== url.origin) {
        throw new PodvmError("unauthenticated", `${this.name}: access refused (HTTP 401 also with a fresh token)`);
      }
      const challenge = response.headers["www-authenticate"];
      await this.authorizer.renew(
        used,
        Array.isArray(challenge) ? challenge.join(", ") : (challenge ?? ""),
        url,
        signal,
      );
    }
  }

  /** A small document, whole, with retries. Throws not_found, permission_denied, unavailable … with what the registry said. */
  async document(
    path: string,
    accept: string,
    maxBytes: number,
    signal?: AbortSignal,
  ): Promise<{ bytes: Buffer; mediaType: string }> {
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await this.once(path, { accept }, signal);
        if (response.status !== 200) throw await failureOf(response, `${this.name}/${path}`);
        const bytes = await readBounded(response.body, maxBytes, `${this.name}/${path}`);
        return { bytes, mediaType: (response.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase() ?? "" };
      } catch (err) {
        await backOff(err, attempt, this.attempts, signal);
      }
    }
  }

  async close(): Promise<void> {
    await this.transport.close();
  }
}

/** The error for a status other than the one wanted; consumes the body. unavailable means: may be retried. */
export async function failureOf(response: HttpResponse, what: string): Promise<PodvmError> {
  const { status } = response;
  const wait = retryAfter(response.headers["retry-after"]);
  const body = await readBounded(response.body, maxErrorBody, what).catch(() => Buffer.alloc(0));
  const message = `${what}: HTTP ${status}${said(body)}`;
  if (status === 404) return new PodvmError("not_found", message);
  if (status === 401) return new PodvmError("unauthenticated", message);
  if (status === 403) return new PodvmError("permission_denied", message);
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    return Object.assign(new PodvmError("unavailable", message), { retryAfterMs: wait });
  }
  return new PodvmError("failed_precondition", message);
}

/** What a registry's error body says ({errors: [{code, message}]}), cut and cleaned: it goes to logs and terminals. */
function said(body: Buffer): string {
  try {
    const { errors } = JSON.parse(body.toString("utf8")) as { errors?: { code?: unknown; message?: unknown }[] };
    const first = errors?.[0];
    const text = [first?.code, first?.message].filter((part) => typeof part === "string" && part !== "").join(": ");
    return text === "" ? "" : ` (${text.replace(/[^\x20-\x7e]/g, "?").slice(0, 300)})`;
  } catch {
    return "";
  }
}
