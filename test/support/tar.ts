/**
 * A small tar builder for tests: ustar headers, pax records where a field needs them, and raw headers for what only a hostile
 * archive has. Names and links are latin1 text when given as such, else UTF-8.
 */
export interface TarItem {
  name: string | Buffer;
  /** Typeflag; "0" file, "1" hard link, "2" symlink, "3" char, "4" block, "5" folder, "6" FIFO. Default by what else is given. */
  type?: string;
  data?: Buffer | string;
  link?: string | Buffer;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  major?: number;
  minor?: number;
  /** Extra pax records, in order: ["SCHILY.xattr.user.a", value] … */
  pax?: [key: string, value: string | Buffer][];
  /** What the size field says, where it is to lie. */
  statedSize?: number;
}

/** @returns the whole archive with its two end blocks */
export function makeTar(items: readonly TarItem[]): Buffer {
  return Buffer.concat([...items.flatMap(makeEntry), Buffer.alloc(1024)]);
}

function makeEntry(item: TarItem): Buffer[] {
  const name = bytes(item.name);
  const link = bytes(item.link ?? "");
  const data = bytes(item.data ?? "");
  const pax = [...(item.pax ?? [])];
  if (name.length > 100) pax.push(["path", name]);
  if (link.length > 100) pax.push(["linkpath", link]);
  for (const key of ["uid", "gid"] as const) if ((item[key] ?? 0) > 0o7777777) pax.push([key, String(item[key])]);
  const type = item.type ?? (item.link !== undefined ? "2" : name.at(-1) === 0x2f ? "5" : "0");
  const header = makeHeader({ ...item, type, name, link }, item.statedSize ?? data.length);
  const parts = [header, data, padding(data.length)];
  if (pax.length === 0) return parts;
  const records = Buffer.concat(pax.map(([key, value]) => paxRecord(key, bytes(value))));
  const paxHeader = makeHeader({ name: Buffer.from("PaxHeader"), link: Buffer.alloc(0), type: "x" }, records.length);
  return [paxHeader, records, padding(records.length), ...parts];
}

function makeHeader(
  item: Omit<TarItem, "name" | "link"> & { name: Buffer; link: Buffer; type: string },
  size: number,
): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, length: number) =>
    header.write(
      value
        .toString(8)
        .slice(-(length - 1))
        .padStart(length - 1, "0"),
      at,
      "latin1",
    );
  item.name.copy(header, 0, 0, 100);
  octal(item.mode ?? (item.type === "5" ? 0o755 : 0o644), 100, 8);
  octal(item.uid ?? 0, 108, 8);
  octal(item.gid ?? 0, 116, 8);
  octal(size, 124, 12);
  octal(item.mtime ?? 1_700_000_000, 136, 12);
  header.write(item.type, 156, "latin1");
  item.link.copy(header, 157, 0, 100);
  header.write("ustar\x0000", 257, "latin1");
  octal(item.major ?? 0, 329, 8);
  octal(item.minor ?? 0, 337, 8);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

export function paxRecord(key: string, value: Buffer): Buffer {
  const rest = key.length + value.length + 3; // space, "=", newline
  let length = rest + String(rest).length;
  if (String(length).length !== String(rest).length) length = rest + String(length).length;
  return Buffer.concat([Buffer.from(`${length} ${key}=`, "latin1"), value, Buffer.from("\n")]);
}

function bytes(value: string | Buffer): Buffer {
  return typeof value === "string" ? Buffer.from(value, "utf8") : value;
}

function padding(length: number): Buffer {
  return Buffer.alloc((512 - (length % 512)) % 512);
}
