import { messageOf, PodvmError } from "../../host/errors.js";
import { readFileIfThere } from "../../host/files.js";
import type { Logger } from "../../host/log.js";
import type { RegistryCredentials } from "../image.js";

const maxFileBytes = 1 << 20;

/**
 * Credentials for a registry out of docker configuration files (`auths`), the first file that has some. The files are read
 * anew on every pull, since operators rotate them. A file that cannot be read is logged and passed over: the pull may not need it.
 */
export async function dockerConfigCredentials(
  paths: readonly string[],
  registry: string,
  logger: Logger,
): Promise<RegistryCredentials | undefined> {
  for (const path of paths) {
    try {
      const text = await readFileIfThere(path);
      if (text === undefined) continue;
      const found = credentialsIn(text, registry);
      if (found) return found;
    } catch (err) {
      logger.warn("docker configuration file passed over", { path, reason: messageOf(err) });
    }
  }
  return undefined;
}

export function credentialsIn(text: string, registry: string): RegistryCredentials | undefined {
  if (text.length > maxFileBytes) throw new PodvmError("invalid_argument", `larger than ${maxFileBytes} bytes`);
  const parsed: unknown = JSON.parse(text);
  const auths = (parsed as { auths?: unknown } | null)?.auths;
  if (typeof auths !== "object" || auths === null) return undefined;
  for (const [key, value] of Object.entries(auths)) {
    if (hostOf(key) === registry) return toCredentials(value);
  }
  return undefined;
}

/** "https://index.docker.io/v1/" → docker.io, "https://host:5000/v2/" → host:5000 */
function hostOf(key: string): string {
  const host = key.replace(/^https?:\/\//, "").split("/")[0] ?? "";
  return ["index.docker.io", "registry-1.docker.io"].includes(host) ? "docker.io" : host;
}

function toCredentials(value: unknown): RegistryCredentials | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const fields = value as Record<string, unknown>;
  const text = (name: string) =>
    typeof fields[name] === "string" && fields[name] !== "" ? (fields[name] as string) : undefined;
  const credentials: RegistryCredentials = {};
  const identityToken = text("identitytoken");
  const registryToken = text("registrytoken");
  if (identityToken !== undefined) credentials.identityToken = identityToken;
  if (registryToken !== undefined) credentials.registryToken = registryToken;
  const auth = text("auth");
  const pair = auth === undefined ? undefined : Buffer.from(auth, "base64").toString("utf8");
  const colon = pair?.indexOf(":") ?? -1;
  const username = text("username") ?? (colon >= 0 ? pair?.slice(0, colon) : undefined);
  const password = text("password") ?? (colon >= 0 ? pair?.slice(colon + 1).replace(/\0+$/, "") : undefined);
  if (username !== undefined) credentials.username = username;
  if (password !== undefined) credentials.password = password;
  return Object.keys(credentials).length > 0 ? credentials : undefined;
}
