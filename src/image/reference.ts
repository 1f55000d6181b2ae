import { PodvmError } from "../host/errors.js";

/** An image's name, parsed and normalised: what a pull takes. Made only by `parseReference`. */
export interface ImageReference {
  /** registry host[:port] */
  registry: string;
  /** library/busybox */
  repository: string;
  tag?: string;
  /** sha256:… */
  digest?: string;
}

/** The registry that a name without a host means, and the folder there of names without a slash. */
const defaultRegistry = "docker.io";
const defaultFolder = "library";
const defaultTag = "latest";

/** Limits of the distribution specification and of docker's reference grammar. */
const maxNameLength = 255;
const maxTextLength = 255 + 1 + 128 + 1 + 7 + 128;

const hostPattern =
  /^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?$/;
const componentPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const digestLengths: Record<string, number> = { sha256: 64, sha512: 128 };

/**
 * Parses an image name as Kubernetes and docker write it: `busybox`, `user/app:1`, `localhost:5000/a/b@sha256:…`.
 * Defaults: registry docker.io, there the folder library, tag latest where neither tag nor digest is given.
 * Throws invalid_argument that says which part is wrong.
 */
export function parseReference(text: string): ImageReference {
  const fail = (why: string): never => {
    const shown = JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
    throw new PodvmError("invalid_argument", `invalid image reference ${shown}: ${why}`);
  };
  if (typeof text !== "string" || text === "") throw new PodvmError("invalid_argument", "empty image reference");
  if (text.length > maxTextLength) fail(`longer than ${maxTextLength} characters`);
  if (/^[a-z]+:\/\//i.test(text)) fail("a reference has no scheme; write host/repository:tag without it");
  if (/^[0-9a-f]{64}$/.test(text)) fail("64 hexadecimal digits are an image id, not a name that can be pulled");

  let rest = text;
  let digest: string | undefined;
  const at = rest.indexOf("@");
  if (at >= 0) {
    digest = rest.slice(at + 1);
    rest = rest.slice(0, at);
    const problem = digestProblem(digest);
    if (problem) fail(problem);
  }

  let tag: string | undefined;
  const colon = rest.lastIndexOf(":");
  if (colon > rest.lastIndexOf("/")) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!tagPattern.test(tag))
      fail(`tag ${JSON.stringify(tag.slice(0, 140))} is not of 1 to 128 letters, digits, "_", "." or "-"`);
  }

  let { registry, repository } = splitHost(rest);
  const port = hostPattern.exec(registry);
  if (!port) fail(`${JSON.stringify(registry)} is no host name`);
  if (port?.[1] !== undefined && (Number(port[1]) < 1 || Number(port[1]) > 65535))
    fail(`port ${port[1]} is out of range`);
  if (registry === "index.docker.io") registry = defaultRegistry;
  if (registry === defaultRegistry && repository !== "" && !repository.includes("/"))
    repository = `${defaultFolder}/${repository}`;

  if (repository === "") fail("no repository name");
  for (const component of repository.split("/")) {
    if (componentPattern.test(component)) continue;
    if (component === "") fail("an empty part between slashes");
    if (component !== component.toLowerCase()) fail("a repository name must be lower case");
    fail(`${JSON.stringify(component)} is no repository name part (a-z, 0-9, single ".", "_" or "-" between)`);
  }
  if (registry.length + 1 + repository.length > maxNameLength) fail(`name longer than ${maxNameLength} characters`);

  const reference: ImageReference = { registry, repository };
  if (tag !== undefined) reference.tag = tag;
  else if (digest === undefined) reference.tag = defaultTag;
  if (digest !== undefined) reference.digest = digest;
  return reference;
}

/** The first part is a host only if it could not be a repository: it has a dot or a port, is localhost, or has upper case. */
function splitHost(name: string): { registry: string; repository: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
  if (slash < 0 || !isHost) return { registry: defaultRegistry, repository: name };
  return { registry: first, repository: name.slice(slash + 1) };
}

/** What is wrong with a digest, or undefined for `sha256:<64 hex>` and `sha512:<128 hex>` (lower case). */
export function digestProblem(digest: string): string | undefined {
  const colon = digest.indexOf(":");
  const algorithm = colon < 0 ? "" : digest.slice(0, colon);
  const length = Object.hasOwn(digestLengths, algorithm) ? digestLengths[algorithm] : undefined;
  if (length === undefined) return `digest ${JSON.stringify(digest.slice(0, 40))} is neither sha256:… nor sha512:…`;
  const hex = digest.slice(colon + 1);
  if (hex.length !== length || !/^[0-9a-f]+$/.test(hex))
    return `a ${algorithm} digest has ${length} lower-case hexadecimal digits, this one ${JSON.stringify(hex.slice(0, 140))}`;
  return undefined;
}

/** registry/repository */
export function repositoryName(reference: Pick<ImageReference, "registry" | "repository">): string {
  return `${reference.registry}/${reference.repository}`;
}

/** The full text: docker.io/library/busybox:1.36@sha256:… */
export function formatReference(reference: ImageReference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${repositoryName(reference)}${tag}${digest}`;
}

/** As people write it: docker.io and library/ left out. */
export function familiarReference(reference: ImageReference): string {
  if (reference.registry !== defaultRegistry) return formatReference(reference);
  const full = formatReference(reference).slice(defaultRegistry.length + 1);
  const bare = reference.repository.startsWith(`${defaultFolder}/`) && reference.repository.split("/").length === 2;
  return bare ? full.slice(defaultFolder.length + 1) : full;
}
