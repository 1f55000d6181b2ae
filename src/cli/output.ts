/** What commands print. Text from images, guests and registries is made harmless for a terminal. */

export function printJson(value: unknown): void {
  process.stdout.write(`${jsonText(value, 2)}\n`);
}

/** 64-bit integers are numbers where a JSON number holds them exactly, else their digits as text. */
export function jsonText(value: unknown, indent?: number): string {
  const plain = (inner: bigint) => (inner <= Number.MAX_SAFE_INTEGER ? Number(inner) : String(inner));
  return JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? plain(inner) : inner), indent);
}

/** Columns as wide as their widest cell; the last one is not padded. */
export function table(head: string[], rows: string[][]): string {
  const all = [head, ...rows.map((row) => row.map(printable))];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  const line = (row: string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  return `${all.map(line).join("\n")}\n`;
}

/** Without control characters, which could rewrite the screen. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "?");
}

/** 1536 → "1.5 KiB". */
export function size(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Time since `ns` (nanoseconds since the epoch): "12s", "5m", "3h", "2d". */
export function age(ns: bigint, nowMs = Date.now()): string {
  const seconds = Math.max(0, Math.floor(nowMs / 1000 - Number(ns / 1_000_000_000n)));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 120 * 60) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

/** The first 12 digits of an id, "sha256:" left out: enough for people; JSON has all of it. */
export const shortId = (id: string): string => id.replace(/^sha256:/, "").slice(0, 12);
