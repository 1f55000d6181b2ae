import { PodvmError } from "../../host/errors.js";
import { cleanPath, type LayerEntry, maxPathBytes } from "./entry.js";
import {
  blockSize,
  type Fields,
  isZeroBlock,
  readDecimal,
  readHeader,
  readPax,
  readTime,
  TarFormatError,
} from "./tar-fields.js";
import { oldSparsePieces, paxSparsePieces, SparseMapReader, type SparsePiece } from "./tar-sparse.js";

export interface ScanLimits {
  /** Entries of one layer. */
  maxEntries: number;
  /** Bytes of all names, link targets and extended attributes of one layer. */
  maxMetadataBytes: number;
}

/** One pax header or long name. Extended attributes have 64 KiB each, so that several fit. */
const maxExtension = 1 << 20;
const maxId = 0xffff_fffe;
/** Linux's dev_t. */
const maxMajor = 0xfff;
const maxMinor = 0xfffff;

/**
 * Reads a layer's tar as it streams by and lists what is in it: ustar, pax, GNU and v7, long names, sparse files, extended
 * attributes, and the whiteouts of the OCI image specification. Only headers are kept. Everything in it is hostile: sizes, names
 * and numbers are bounded, and nothing here touches a file. Throws invalid_argument with the position in the tar.
 */
export class TarScanner {
  readonly entries: LayerEntry[] = [];
  private metadataBytes = 0;
  private position = 0;

  private block: Buffer = Buffer.alloc(blockSize);
  private have = 0;
  private onBlock: (block: Buffer) => void = (block) => this.header(block);
  /** Bytes to pass over before the next block. */
  private skip = 0;
  private zeroBlocks = 0;
  private ended = false;

  /** What the extension headers before an entry said. */
  private pax = new Map<string, string>();
  private sparse: [string, string][] = [];
  private longName: string | undefined;
  private longLink: string | undefined;

  constructor(private readonly limits: ScanLimits) {}

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.ended) {
      const there = chunk.length - at;
      if (this.skip > 0) {
        const passed = Math.min(this.skip, there);
        this.skip -= passed;
        this.position += passed;
        at += passed;
        continue;
      }
      const taken = Math.min(this.block.length - this.have, there);
      chunk.copy(this.block, this.have, at, at + taken);
      this.have += taken;
      this.position += taken;
      at += taken;
      if (this.have < this.block.length) continue;
      this.have = 0;
      this.guard(() => this.onBlock(this.block));
    }
  }

  /** The stream has ended. A tar may lack its end blocks, but not a part of an entry. */
  end(): void {
    if (this.ended) return;
    const inEntry = this.have > 0 || this.skip > 0 || this.pax.size > 0 || this.longName !== undefined;
    if (inEntry || this.block.length !== blockSize) this.guard(() => wrong("the tar ends inside an entry"));
  }

  private guard(work: () => void): void {
    try {
      work();
    } catch (err) {
      if (!(err instanceof TarFormatError)) throw err;
      throw new PodvmError("invalid_argument", `bad layer tar near byte ${this.position}: ${err.message}`);
    }
  }

  /** Calls `then` with the next `bytes` bytes, then goes on after their padding. */
  private collect(bytes: number, then: (data: Buffer) => void): void {
    if (bytes > maxExtension) wrong(`an extension header of ${bytes} bytes (at most ${maxExtension})`);
    const padded = Math.ceil(bytes / blockSize) * blockSize;
    if (padded === 0) {
      then(Buffer.alloc(0));
      return;
    }
    this.block = Buffer.alloc(padded);
    this.onBlock = (block) => {
      this.nextHeader();
      then(block.subarray(0, bytes));
    };
  }

  private nextHeader(): void {
    this.block = Buffer.alloc(blockSize);
    this.onBlock = (block) => this.header(block);
  }

  private header(block: Buffer): void {
    if (isZeroBlock(block)) {
      this.zeroBlocks += 1;
      this.ended = this.zeroBlocks === 2;
      return;
    }
    if (this.zeroBlocks > 0) wrong("an entry after a block of zeros");
    const fields = readHeader(block);
    switch (fields.type) {
      case "g": // git archive writes its commit so; no runtime applies it to entries
        this.collect(fields.size, () => {});
        break;
      case "x":
        this.collect(fields.size, (data) => this.takePax(data));
        break;
      case "L":
        this.collect(fields.size, (data) => {
          this.longName = untilNul(data);
        });
        break;
      case "K":
        this.collect(fields.size, (data) => {
          this.longLink = untilNul(data);
        });
        break;
      case "V": // a volume label names nothing
        this.skip = Math.ceil(fields.size / blockSize) * blockSize;
        this.forget();
        break;
      default:
        this.entry(fields, Buffer.from(block));
    }
  }

  private takePax(data: Buffer): void {
    for (const [key, value] of readPax(data)) {
      if (key.startsWith("GNU.sparse.")) this.sparse.push([key, value]);
      else if (value === "" && !key.startsWith("SCHILY.xattr.")) this.pax.delete(key);
      else this.pax.set(key, value);
    }
  }

  private forget(): void {
    this.pax = new Map();
    this.sparse = [];
    this.longName = undefined;
    this.longLink = undefined;
  }

  private entry(fields: Fields, block: Buffer): void {
    const { pax } = this;
    const sparseKeys = new Map(this.sparse);
    const name = sparseKeys.get("GNU.sparse.name") ?? pax.get("path") ?? this.longName ?? fields.name;
    const link = pax.get("linkpath") ?? this.longLink ?? fields.link;
    const stored = pax.has("size") ? readDecimal(pax.get("size") ?? "", "pax size") : fields.size;
    const [mtime, mtimeNsec] = pax.has("mtime") ? readTime(pax.get("mtime") ?? "") : [fields.mtime, 0];
    const kind = kindOf(fields.type, name);
    const path = cleanPath(name);
    if (path === undefined)
      wrong(`name ${shown(name)} has a part above 255 or is above ${maxPathBytes} bytes, or holds NUL`);

    const entry: LayerEntry = {
      kind,
      path: path as string,
      mode: fields.mode & 0o7777,
      uid: id(pax.has("uid") ? readDecimal(pax.get("uid") ?? "", "pax uid") : fields.uid, "uid"),
      gid: id(pax.has("gid") ? readDecimal(pax.get("gid") ?? "", "pax gid") : fields.gid, "gid"),
      mtime,
      mtimeNsec,
      size: kind === "file" ? stored : 0,
      offset: this.position,
      link: kind === "symlink" || kind === "hardlink" ? linkTarget(kind, link, name) : "",
      major: fields.major,
      minor: fields.minor,
      xattrs: xattrsOf(pax),
    };
    if (entry.major > maxMajor || entry.minor > maxMinor) wrong(`${shown(name)}: device number out of range`);
    const sparse = this.sparse;
    this.forget();
    if (kind === "file") {
      if (entry.path === "") wrong("a file in the place of the root");
      this.skip = Math.ceil(stored / blockSize) * blockSize;
      if (!Number.isSafeInteger(this.position + this.skip)) wrong("size out of range");
    }
    if (kind === "file" && fields.type === "S") this.oldSparse(entry, block, stored);
    else if (kind === "file" && sparse.length > 0) this.paxSparse(entry, sparse, stored);
    else this.add(entry);
  }

  /** GNU's old sparse format: pieces in the header, more in blocks after it. */
  private oldSparse(entry: LayerEntry, block: Buffer, stored: number): void {
    const { pieces, realSize, more } = oldSparsePieces(block);
    const dataBytes = this.skip;
    const finish = () => {
      entry.offset = this.position;
      this.skip = dataBytes;
      this.addSparse(entry, pieces, realSize, stored);
    };
    if (!more) {
      finish();
      return;
    }
    this.skip = 0;
    this.onBlock = (next) => {
      const piece = oldSparsePieces(next, true);
      pieces.push(...piece.pieces);
      if (pieces.length > maxExtension / 16) wrong("too many pieces in a sparse file");
      if (piece.more) return;
      this.nextHeader();
      finish();
    };
  }

  private paxSparse(entry: LayerEntry, keys: [string, string][], stored: number): void {
    const map = new Map(keys);
    const real = map.get("GNU.sparse.realsize") ?? map.get("GNU.sparse.size");
    if (real === undefined) wrong("a sparse file without its size");
    const realSize = readDecimal(real as string, "sparse size");
    if (map.get("GNU.sparse.major") !== "1") {
      this.addSparse(entry, paxSparsePieces(keys), realSize, stored);
      return;
    }
    // Format 1.0: the map is the first part of the data, as decimal lines, padded to a block.
    const dataBytes = this.skip;
    this.skip = 0;
    const mapReader = new SparseMapReader();
    this.onBlock = (next) => {
      const pieces = mapReader.push(next);
      const bytes = mapReader.blocks * blockSize;
      if (bytes > Math.min(maxExtension, dataBytes)) wrong("the map of a sparse file has no end");
      if (!pieces) return;
      this.nextHeader();
      entry.offset = this.position;
      this.skip = dataBytes - bytes;
      this.addSparse(entry, pieces, realSize, stored - bytes);
    };
  }

  private addSparse(entry: LayerEntry, pieces: SparsePiece[], realSize: number, stored: number): void {
    let last = 0;
    let total = 0;
    for (const piece of pieces) {
      if (piece.offset < last || piece.offset + piece.bytes > realSize)
        wrong("the pieces of a sparse file overlap or reach past its end");
      last = piece.offset + piece.bytes;
      total += piece.bytes;
    }
    if (total > stored) wrong("a sparse file has less data than its map says");
    entry.size = realSize;
    entry.sparse = pieces;
    this.metadataBytes += pieces.length * 16;
    this.add(entry);
  }

  private add(entry: LayerEntry): void {
    const made = whiteoutOf(entry);
    if (!made) return;
    this.entries.push(made);
    this.metadataBytes += made.path.length + made.link.length;
    for (const [name, value] of made.xattrs) this.metadataBytes += name.length + value.length;
    const { maxEntries, maxMetadataBytes } = this.limits;
    if (this.entries.length > maxEntries)
      throw new PodvmError("resource_exhausted", `layer has more than ${maxEntries} entries`);
    if (this.metadataBytes > maxMetadataBytes)
      throw new PodvmError(
        "resource_exhausted",
        `layer has more than ${maxMetadataBytes} bytes of names and attributes`,
      );
  }
}

function wrong(why: string): never {
  throw new TarFormatError(why);
}

function shown(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
}

function untilNul(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString("latin1", 0, end < 0 ? data.length : end);
}

function id(value: number, what: string): number {
  if (value > maxId) wrong(`${what} ${value} is out of range`);
  return value;
}

function kindOf(type: string, name: string): LayerEntry["kind"] {
  switch (type) {
    case "\0":
    case "0":
      return name.endsWith("/") ? "directory" : "file";
    case "7":
    case "S":
      return "file";
    case "1":
      return "hardlink";
    case "2":
      return "symlink";
    case "3":
      return "char";
    case "4":
      return "block";
    case "5":
      return "directory";
    case "6":
      return "fifo";
    default:
      return wrong(`entry ${shown(name)} is of the unknown type ${JSON.stringify(type)}`);
  }
}

function linkTarget(kind: "symlink" | "hardlink", link: string, name: string): string {
  if (link === "" || link.length > maxPathBytes || link.includes("\0"))
    wrong(`${shown(name)}: link target is empty, has NUL or is too long`);
  if (kind === "symlink") return link;
  const target = cleanPath(link);
  if (target === undefined || target === "") wrong(`${shown(name)}: ${shown(link)} cannot be linked to`);
  return target as string;
}

/** Those that a file system can hold. overlay's own are left out: they would steer the overlay that the container mounts. */
function xattrsOf(pax: Map<string, string>): [string, string][] {
  const xattrs: [string, string][] = [];
  for (const [key, value] of pax) {
    if (!key.startsWith("SCHILY.xattr.")) continue;
    const name = key.slice("SCHILY.xattr.".length);
    if (!/^(user|trusted|security)\.[^\0]|^system\.posix_acl_(access|default)$/s.test(name)) continue;
    if (name.startsWith("trusted.overlay.") || name.startsWith("user.overlay.")) continue;
    if (name.length > 255 || value.length > 65535) wrong(`extended attribute ${shown(name)} is too long`);
    xattrs.push([name, value]);
  }
  return xattrs;
}

/** OCI image specification, "Whiteouts". Undefined for what aufs kept for itself. */
function whiteoutOf(entry: LayerEntry): LayerEntry | undefined {
  const slash = entry.path.lastIndexOf("/");
  const base = entry.path.slice(slash + 1);
  const folder = slash < 0 ? "" : entry.path.slice(0, slash);
  if (entry.kind === "char" && entry.major === 0 && entry.minor === 0) return { ...entry, kind: "whiteout" };
  if (!base.startsWith(".wh.")) {
    if (entry.path === "" && entry.kind !== "directory") wrong("the root is not a folder");
    return entry;
  }
  if (base === ".wh..wh..opq") return { ...entry, kind: "opaque", path: folder, size: 0 };
  if (base.startsWith(".wh..wh.")) return undefined;
  const hidden = base.slice(".wh.".length);
  if (hidden === "" || hidden === "." || hidden === "..") wrong(`whiteout of ${shown(hidden)}`);
  return { ...entry, kind: "whiteout", path: folder === "" ? hidden : `${folder}/${hidden}`, size: 0 };
}
