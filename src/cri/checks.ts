import { PodvmError } from "../host/errors.js";

/** Bounds and shapes of what CRI clients send. Every rejection says what was wanted and what was found. */

export function bad(what: string, wanted: string, found: unknown): PodvmError {
  const shown = typeof found === "string" ? JSON.stringify(found.slice(0, 100)) : String(found);
  return new PodvmError("invalid_argument", `${what}: wanted ${wanted}, found ${shown}`);
}

const MAX_TEXT = 256 * 1024;

export function text(what: string, value: string, max = 4096): string {
  if (value.length > max) throw bad(what, `at most ${max} characters`, `${value.length}`);
  if (value.includes("\0")) throw bad(what, "text without NUL", value);
  return value;
}

export function required(what: string, value: string, max = 4096): string {
  if (value === "") throw bad(what, "a value", "none");
  return text(what, value, max);
}

export function list<T>(what: string, values: readonly T[], max: number): readonly T[] {
  if (values.length > max) throw bad(what, `at most ${max} entries`, `${values.length}`);
  return values;
}

export function stringMap(what: string, map: Record<string, string>): Record<string, string> {
  let size = 0;
  for (const [key, value] of Object.entries(map)) {
    size += text(`${what} key`, key, 1024).length + text(`${what} ${key}`, value, MAX_TEXT).length;
  }
  if (size > 2 * MAX_TEXT) throw bad(what, `at most ${2 * MAX_TEXT} characters in all`, `${size}`);
  return { ...map };
}

/** A 64-bit integer that must also be exact as a JavaScript number. */
export function integer(
  what: string,
  value: bigint | number,
  min = Number.MIN_SAFE_INTEGER,
  max = Number.MAX_SAFE_INTEGER,
): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < min || number > max) {
    throw bad(what, `an integer from ${min} to ${max}`, String(value));
  }
  return number;
}

/** An absolute path without "." or ".." components, or "" where that is allowed. */
export function absolutePath(what: string, value: string, allowEmpty = false): string {
  if (value === "" && allowEmpty) return "";
  text(what, value, 4096);
  if (!value.startsWith("/") || value.split("/").some((part) => part === ".." || part === ".")) {
    throw bad(what, "an absolute path without . and ..", value);
  }
  return value;
}

export function relativePath(what: string, value: string): string {
  if (value === "") return "";
  text(what, value, 4096);
  if (value.startsWith("/") || value.split("/").includes("..")) throw bad(what, "a relative path without ..", value);
  return value;
}

const LABEL_NAME = /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;

/** Names of pods, namespaces and containers become part of file names and CNI arguments (key=value;…). */
export function objectName(what: string, value: string): string {
  required(what, value, 253);
  if (!LABEL_NAME.test(value))
    throw bad(what, "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", value);
  return value;
}

/** What the kernel and /etc/hosts take as a host name: RFC 1123, at most 64 characters; "" is allowed. */
export function hostName(what: string, value: string): string {
  text(what, value, 64);
  if (value !== "" && !/^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/.test(value)) {
    throw bad(what, "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", value);
  }
  return value;
}
