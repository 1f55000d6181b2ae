/** Log fields as plain JSON values, bounded: they may come from guests, images and registries. */

const maxText = 4096;
const maxCauses = 5;

export interface PlainError {
  name: string;
  message: string;
  code?: string;
  stack?: string;
  cause?: PlainError | string;
}

export function plainError(err: Error, depth = 0): PlainError {
  const out: PlainError = { name: err.name, message: clip(err.message) };
  const { code } = err as { code?: unknown };
  if (typeof code === "string" || typeof code === "number") out.code = String(code);
  if (err.stack) out.stack = clip(err.stack);
  if (err.cause instanceof Error && depth < maxCauses) out.cause = plainError(err.cause, depth + 1);
  else if (err.cause !== undefined && !(err.cause instanceof Error)) out.cause = clip(String(err.cause));
  return out;
}

/** Fields with errors, bigints, maps and bytes made printable. Cycles and depth are cut. */
export function plainFields(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, plain(value, 0)]));
}

function plain(value: unknown, depth: number): unknown {
  if (value instanceof Error) return plainError(value);
  if (typeof value === "string") return clip(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (depth >= 5) return "…";
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.slice(0, 100).map((item) => plain(item, depth + 1));
  const entries = value instanceof Map ? [...value.entries()] : Object.entries(value);
  return Object.fromEntries(entries.slice(0, 100).map(([key, inner]) => [String(key), plain(inner, depth + 1)]));
}

function clip(text: string): string {
  return text.length > maxText ? `${text.slice(0, maxText)}… (${text.length} characters)` : text;
}
