import { readFile, writeFile } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import type { LayerEntry } from "../layer/entry.js";

/** A layer's index on disk: one JSON array per entry and line, gzipped. Written and read in slices, since a layer may have 100,000s. */
const slice = 2000;
const deflate = promisify(gzip);
const inflate = promisify(gunzip);

type Row = [
  kind: LayerEntry["kind"],
  path: string,
  mode: number,
  uid: number,
  gid: number,
  mtime: number,
  mtimeNsec: number,
  size: number,
  offset: number,
  link: string,
  major: number,
  minor: number,
  xattrs: [string, string][],
];

export async function writeEntries(path: string, entries: readonly LayerEntry[]): Promise<void> {
  const parts: Buffer[] = [];
  for (let i = 0; i < entries.length; i += slice) {
    const lines = entries.slice(i, i + slice).map((e) => {
      const row: Row = [
        e.kind,
        e.path,
        e.mode,
        e.uid,
        e.gid,
        e.mtime,
        e.mtimeNsec,
        e.size,
        e.offset,
        e.link,
        e.major,
        e.minor,
        e.xattrs,
      ];
      return `${JSON.stringify(row)}\n`;
    });
    parts.push(Buffer.from(lines.join(""), "utf8"));
    await setImmediate();
  }
  await writeFile(path, await deflate(Buffer.concat(parts), { level: 1 }), { mode: 0o400, flag: "wx", flush: true });
}

export async function readEntries(path: string): Promise<LayerEntry[]> {
  const bytes = await inflate(await readFile(path));
  const entries: LayerEntry[] = [];
  let at = 0;
  while (at < bytes.length) {
    const end = bytes.indexOf(0x0a, at);
    const [kind, path, mode, uid, gid, mtime, mtimeNsec, size, offset, link, major, minor, xattrs] = JSON.parse(
      bytes.toString("utf8", at, end),
    ) as Row;
    entries.push({ kind, path, mode, uid, gid, mtime, mtimeNsec, size, offset, link, major, minor, xattrs });
    at = end + 1;
    if (entries.length % slice === 0) await setImmediate();
  }
  return entries;
}
