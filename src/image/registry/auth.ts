import type { Readable } from "node:stream";
import { PodvmError } from "../../host/errors.js";
import type { RegistryCredentials } from "../image.js";
import { type Challenge, parseChallenges } from "./challenge.js";
import type { Transport } from "./transport.js";

const maxTokenReply = 256 * 1024;
const clientId = "podvm";

/**
 * The Authorization header for one repository at one endpoint. Starts with none (or a registry token that was given) and answers
 * challenges as they come: Basic, or Bearer by the distribution project's token protocol (GET; OAuth 2 POST with an identity token).
 */
export class Authorizer {
  private header: string | undefined;
  private renewal: Promise<void> | undefined;

  constructor(
    private readonly transport: Transport,
    private readonly repository: string,
    private readonly credentials: RegistryCredentials | undefined,
  ) {
    if (credentials?.registryToken) this.header = `Bearer ${credentials.registryToken}`;
  }

  current(): string | undefined {
    return this.header;
  }

  /**
   * After a 401. `used` is the header of the refused request: when another request has renewed it since, that is taken.
   * Throws unauthenticated where the challenge cannot be met.
   */
  async renew(used: string | undefined, wwwAuthenticate: string, from: URL, signal?: AbortSignal): Promise<void> {
    if (this.header !== used) return;
    this.renewal ??= this.answer(wwwAuthenticate, from, signal).finally(() => {
      this.renewal = undefined;
    });
    await this.renewal;
  }

  private async answer(wwwAuthenticate: string, from: URL, signal?: AbortSignal): Promise<void> {
    const challenges = parseChallenges(wwwAuthenticate);
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    if (bearer) {
      this.header = `Bearer ${await this.token(bearer, from, signal)}`;
      return;
    }
    const basic = challenges.find(({ scheme }) => scheme === "basic");
    if (!basic) {
      const found = challenges.map(({ scheme }) => scheme).join(", ") || "none";
      throw new PodvmError(
        "unauthenticated",
        `${from.host} asks for authentication by ${found}; Bearer and Basic are known`,
      );
    }
    const header = this.basicHeader();
    if (header === undefined) {
      throw new PodvmError(
        "unauthenticated",
        `${from.host} wants a user name and password for ${this.repository}; none were given`,
      );
    }
    if (header === this.header) {
      throw new PodvmError(
        "unauthenticated",
        `${from.host} refuses the user name or password given for ${this.repository}`,
      );
    }
    this.header = header;
  }

  private basicHeader(): string | undefined {
    const { username, password } = this.credentials ?? {};
    if (username === undefined || username === "") return undefined;
    return `Basic ${Buffer.from(`${username}:${password ?? ""}`).toString("base64")}`;
  }

  private async token(challenge: Challenge, from: URL, signal?: AbortSignal): Promise<string> {
    const realm = challenge.parameters.get("realm") ?? "";
    if (!URL.canParse(realm) || !/^https?:/.test(realm)) {
      throw new PodvmError(
        "unauthenticated",
        `${from.host} names no usable token server (realm ${JSON.stringify(realm.slice(0, 200))})`,
      );
    }
    const url = new URL(realm);
    if (from.protocol === "https:" && url.protocol !== "https:") {
      throw new PodvmError(
        "unauthenticated",
        `${from.host} names the token server ${url.origin} without TLS, which is refused`,
      );
    }
    const service = challenge.parameters.get("service");
    const scope = challenge.parameters.get("scope") || `repository:${this.repository}:pull`;
    const identity = this.credentials?.identityToken;
    const basic = this.basicHeader();
    if (identity === undefined) {
      if (service !== undefined) url.searchParams.set("service", service);
      for (const part of scope.split(" ")) if (part !== "") url.searchParams.append("scope", part);
    }
    const response =
      identity === undefined
        ? await this.transport.request(url, { headers: basic === undefined ? {} : { authorization: basic }, signal })
        : await this.transport.request(url, {
            method: "POST",
            headers: { "content-type": "application/x-www-form-urlencoded" },
            body: new URLSearchParams({
              grant_type: "refresh_token",
              refresh_token: identity,
              client_id: clientId,
              scope,
              ...(service === undefined ? {} : { service }),
            }).toString(),
            signal,
          });
    const reply = await readBounded(response.body, maxTokenReply, `token server ${url.host}`);
    if (response.status === 400 || response.status === 401 || response.status === 403) {
      const who = basic === undefined && identity === undefined ? "anonymous access" : "the credentials given";
      throw new PodvmError(
        "unauthenticated",
        `token server ${url.host} refuses ${who} for ${this.repository} (HTTP ${response.status})`,
      );
    }
    if (response.status !== 200)
      throw new PodvmError("unavailable", `token server ${url.host}: HTTP ${response.status}`);
    return tokenIn(reply, url.host);
  }
}

function tokenIn(reply: Buffer, host: string): string {
  let parsed: unknown;
  try {
    parsed = JSON.parse(reply.toString("utf8"));
  } catch (cause) {
    throw new PodvmError("unavailable", `token server ${host} answers no JSON`, { cause });
  }
  const { token, access_token } = (parsed ?? {}) as { token?: unknown; access_token?: unknown };
  const found = token ?? access_token;
  if (typeof found !== "string" || !/^[\x21-\x7e]{1,262144}$/.test(found)) {
    throw new PodvmError("unauthenticated", `token server ${host} answers no token`);
  }
  return found;
}

/** The whole body; more than `max` bytes is an error. Destroys the body in any case. */
export async function readBounded(body: Readable, max: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > max) throw new PodvmError("resource_exhausted", `${what}: answer larger than ${max} bytes`);
      chunks.push(chunk);
    }
  } catch (err) {
    if (err instanceof PodvmError) throw err;
    throw new PodvmError("unavailable", `${what}: ${(err as Error).message}`, { cause: err });
  } finally {
    body.destroy();
  }
  return Buffer.concat(chunks);
}
