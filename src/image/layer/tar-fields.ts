/** Reading the fields of tar headers and pax records (POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format"). */

export type Fields = {
  name: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  type: string;
  link: string;
  major: number;
  minor: number;
  /** "ustar", "gnu" or "v7" */
  format: "ustar" | "gnu" | "v7";
};

/** Thrown with what is wrong; the scanner adds where. */
export class TarFormatError extends Error {}

export const blockSize = 512;

export function isZeroBlock(block: Buffer): boolean {
  for (let i = 0; i < block.length; i += 8) if (block.readBigUInt64LE(i) !== 0n) return false;
  return true;
}

/** Throws TarFormatError for a wrong checksum or number. */
export function readHeader(block: Buffer): Fields {
  checkSum(block);
  const magic = block.toString("latin1", 257, 265);
  const format = magic.startsWith("ustar\0") ? "ustar" : magic.startsWith("ustar ") ? "gnu" : "v7";
  const prefix = format === "ustar" ? text(block, 345, 155) : "";
  const name = text(block, 0, 100);
  const devices = format !== "v7";
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: number(block, 100, 8, "mode"),
    uid: number(block, 108, 8, "uid"),
    gid: number(block, 116, 8, "gid"),
    size: number(block, 124, 12, "size"),
    mtime: Math.max(0, number(block, 136, 12, "mtime", true)),
    type: String.fromCharCode(block[156] ?? 0),
    link: text(block, 157, 100),
    major: devices ? number(block, 329, 8, "device major") : 0,
    minor: devices ? number(block, 337, 8, "device minor") : 0,
    format,
  };
}

function checkSum(block: Buffer): void {
  const wanted = number(block, 148, 8, "checksum");
  let unsigned = 8 * 32;
  let signed = 8 * 32;
  for (let i = 0; i < blockSize; i++) {
    if (i >= 148 && i < 156) continue;
    unsigned += block[i] ?? 0;
    signed += block.readInt8(i);
  }
  if (wanted !== unsigned && wanted !== signed) throw new TarFormatError("header checksum does not match");
}

function text(block: Buffer, at: number, length: number): string {
  const field = block.toString("latin1", at, at + length);
  const end = field.indexOf("\0");
  return end < 0 ? field : field.slice(0, end);
}

/** Octal text, or GNU's base-256 where the first bit is set. */
export function number(block: Buffer, at: number, length: number, what: string, mayBeNegative = false): number {
  const first = block[at] ?? 0;
  if (first & 0x80) {
    let value = first & 0x40 ? -1n : 0n;
    value = (value << 6n) | BigInt(first & 0x3f);
    for (let i = at + 1; i < at + length; i++) value = (value << 8n) | BigInt(block[i] ?? 0);
    if (value < 0n && mayBeNegative) return -1;
    if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) throw new TarFormatError(`${what} out of range`);
    return Number(value);
  }
  const digits = text(block, at, length).trim();
  if (digits === "") return 0;
  if (!/^[0-7]+$/.test(digits)) throw new TarFormatError(`${what} ${JSON.stringify(digits)} is not octal`);
  return Number.parseInt(digits, 8);
}

/** The records of a pax extended header, in order: "LEN KEY=VALUE\n". Later ones of the same key win, except GNU sparse pieces. */
export function readPax(data: Buffer): [key: string, value: string][] {
  const records: [string, string][] = [];
  let at = 0;
  while (at < data.length) {
    const space = data.indexOf(0x20, at);
    const length = space < 0 ? Number.NaN : Number(data.toString("latin1", at, space));
    const end = at + length;
    if (!Number.isInteger(length) || end > data.length || end <= space + 1 || data[end - 1] !== 0x0a) {
      throw new TarFormatError("malformed pax record");
    }
    const equals = data.indexOf(0x3d, space);
    if (equals < 0 || equals >= end) throw new TarFormatError("pax record without =");
    records.push([data.toString("latin1", space + 1, equals), data.toString("latin1", equals + 1, end - 1)]);
    at = end;
  }
  return records;
}

/** A decimal pax number with optional fraction: [seconds, nanoseconds]; negative times are taken as 0. */
export function readTime(value: string): [number, number] {
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(value);
  if (!match) throw new TarFormatError(`pax time ${JSON.stringify(value.slice(0, 40))}`);
  if (match[1] === "-") return [0, 0];
  return [Number(match[2]), Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"))];
}

export function readDecimal(value: string, what: string): number {
  const parsed = /^[0-9]{1,16}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(parsed)) throw new TarFormatError(`${what} ${JSON.stringify(value.slice(0, 40))}`);
  return parsed;
}
