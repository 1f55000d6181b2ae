/** What a layer's tar says of one path; also the unit of the layer's index on disk. */
export interface LayerEntry {
  kind: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo" | "whiteout" | "opaque";
  /** Bytes as latin1 text (names need not be UTF-8), components joined by "/", none of them "", "." or ".."; "" is the root. */
  path: string;
  /** Permission bits with setuid, setgid and sticky (07777). */
  mode: number;
  uid: number;
  gid: number;
  /** Seconds since 1970, not negative, and nanoseconds. */
  mtime: number;
  mtimeNsec: number;
  /** Bytes of a file. */
  size: number;
  /** Where the file's bytes begin in the layer's file; a multiple of 512. */
  offset: number;
  /** Target of a symlink (any bytes, latin1) or a hard link (like `path`). */
  link: string;
  major: number;
  minor: number;
  /** Names with their prefix, values as latin1 text. */
  xattrs: [name: string, value: string][];
  /** Pieces of a sparse file in stored order, until `expandSparse` has put the file together. */
  sparse?: { offset: number; bytes: number }[];
}

/** Longest name of one path component (EROFS, ext4) and of a whole path (PATH_MAX without its NUL). */
export const maxNameBytes = 255;
export const maxPathBytes = 4095;

/** @returns the clean form of a path out of a tar, where ".." never leaves the root; undefined where it cannot be a path. */
export function cleanPath(raw: string): string | undefined {
  const parts: string[] = [];
  for (const part of raw.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") {
      parts.pop();
      continue;
    }
    if (part.length > maxNameBytes || part.includes("\0")) return undefined;
    parts.push(part);
  }
  const path = parts.join("/");
  return path.length > maxPathBytes ? undefined : path;
}
