import { setImmediate } from "node:timers/promises";
import { PodvmError } from "../../host/errors.js";
import type { TreeNode } from "./tree.js";

/**
 * Writes the metadata of an EROFS image whose file data lies behind it on the same device, in tars as they are. Everything is
 * "flat" (one run of blocks per file), in 512-byte blocks because that is how tar aligns. On-disk format: Linux,
 * Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. Read by kernels ≥ 6.4 (block size below the page size).
 */
const blockBits = 9;
export const erofsBlock = 1 << blockBits;
/** The index's size is a multiple of this, and so is each layer's file: sector-agnostic devices. */
export const extentAlign = 4096;

const superOffset = 1024;
const superMagic = 0xe0f5e1e2;
const featureMtime = 0x2; // times in inodes are modification times
const slotBits = 5; // inode numbers count 32-byte slots
const inodeBytes = 64; // the extended form: 32-bit owners, own time
const firstInode = 1536;
const layoutPlain = 0;
const layoutInline = 2;
const noBlock = 0xffff_ffff;
const slice = 2000;

const fileTypes = { file: 1, directory: 2, char: 3, block: 4, fifo: 5, symlink: 7 } as const;
const modeBits = {
  file: 0o100000,
  directory: 0o040000,
  char: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
  symlink: 0o120000,
} as const;
const xattrPrefixes: [prefix: string, index: number][] = [
  ["user.", 1],
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["trusted.", 4],
  ["security.", 6],
];

interface Inode {
  node: TreeNode;
  parent: Inode | undefined;
  /** Sorted names of a directory, with "." and "..". */
  names: { name: string; inode: Inode }[];
  links: number;
  /** Byte position on the device. */
  position: number;
  xattrs: Buffer;
  /** Bytes of content that the index itself holds (folders, symlinks). */
  contentBytes: number;
  inline: boolean;
  /** Where the content lies if not inline. */
  contentPosition: number;
}

export interface ErofsLayer {
  /** Bytes that this layer takes on the device, a multiple of 512. */
  bytes: number;
}

export interface ErofsIndex {
  bytes: Buffer;
  /** Numbers of the layers behind the index, in this order; those of which no file is visible are left out. */
  layers: number[];
}

/**
 * @param layers by the number that the tree's nodes carry
 * @param uuid 16 bytes
 * @returns the index; the device is it, then the files of `layers` in the order given back.
 */
export async function writeErofs(root: TreeNode, layers: readonly ErofsLayer[], uuid: Buffer): Promise<ErofsIndex> {
  const inodes = await number(root);
  const end = place(inodes);
  const indexBytes = Math.ceil(end / extentAlign) * extentAlign;

  const used = new Set(
    inodes.filter(({ node }) => node.kind === "file" && node.size > 0).map(({ node }) => node.layer),
  );
  const order = [...used].sort((a, b) => a - b);
  const starts = new Map<number, number>();
  let deviceBytes = indexBytes;
  for (const layer of order) {
    starts.set(layer, deviceBytes);
    deviceBytes += layers[layer]?.bytes ?? 0;
  }
  if (deviceBytes / erofsBlock >= noBlock) {
    throw new PodvmError("resource_exhausted", `image of ${deviceBytes} bytes; a device holds at most 2 TiB`);
  }

  const bytes = Buffer.alloc(indexBytes);
  writeSuper(bytes, inodes, deviceBytes / erofsBlock, uuid);
  let turn = 0;
  for (const inode of inodes) {
    writeInode(bytes, inode, starts);
    turn += 1;
    if (turn % slice === 0) await setImmediate();
  }
  return { bytes, layers: order };
}

/** All inodes, the root first (its number must fit 16 bits), folders before what is in them. */
async function number(root: TreeNode): Promise<Inode[]> {
  const inodes: Inode[] = [];
  const known = new Map<TreeNode, Inode>();
  const make = (node: TreeNode, parent: Inode | undefined): Inode => {
    const inode: Inode = {
      node,
      parent,
      names: [],
      links: node.kind === "directory" ? 2 : 0,
      position: 0,
      xattrs: encodeXattrs(node.xattrs),
      contentBytes: node.kind === "symlink" ? node.link.length : 0,
      inline: false,
      contentPosition: 0,
    };
    inodes.push(inode);
    return inode;
  };
  make(root, undefined);
  for (let i = 0; i < inodes.length; i++) {
    if (i % slice === slice - 1) await setImmediate();
    const directory = inodes[i] as Inode;
    if (directory.node.kind !== "directory") continue;
    const { names } = directory;
    names.push({ name: ".", inode: directory }, { name: "..", inode: directory.parent ?? directory });
    for (const [name, node] of directory.node.children) {
      let inode = known.get(node);
      if (!inode) {
        inode = make(node, directory);
        if (node.kind !== "directory") known.set(node, inode);
      }
      if (node.kind === "directory") directory.links += 1;
      else inode.links += 1;
      names.push({ name, inode });
    }
    names.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)); // latin1 text sorts as its bytes
    directory.contentBytes = directoryBlocks(names).bytes;
  }
  return inodes;
}

/** Gives every inode and every content its place; answers the end. Inline content must not cross a block, so such inodes keep to one. */
function place(inodes: Inode[]): number {
  let at = firstInode;
  for (const inode of inodes) {
    const head = inodeBytes + inode.xattrs.length;
    inode.inline = inode.contentBytes > 0 && head + inode.contentBytes <= erofsBlock;
    const whole = head + (inode.inline ? inode.contentBytes : 0);
    if (inode.inline && (at % erofsBlock) + whole > erofsBlock) at = alignUp(at, erofsBlock);
    inode.position = at;
    at = alignUp(at + whole, 1 << slotBits);
  }
  at = alignUp(at, erofsBlock);
  for (const inode of inodes) {
    if (inode.contentBytes === 0 || inode.inline) continue;
    inode.contentPosition = at;
    at = alignUp(at + inode.contentBytes, erofsBlock);
  }
  return at;
}

function writeSuper(bytes: Buffer, inodes: Inode[], blocks: number, uuid: Buffer): void {
  const at = superOffset;
  bytes.writeUInt32LE(superMagic, at);
  bytes.writeUInt32LE(featureMtime, at + 8);
  bytes.writeUInt8(blockBits, at + 12);
  bytes.writeUInt16LE(firstInode >> slotBits, at + 14); // root
  bytes.writeBigUInt64LE(BigInt(inodes.length), at + 16);
  bytes.writeUInt32LE(blocks, at + 36);
  uuid.copy(bytes, at + 48, 0, 16);
  bytes.write("podvm-image", at + 64, "latin1");
}

function writeInode(bytes: Buffer, inode: Inode, starts: Map<number, number>): void {
  const { node, position: at } = inode;
  const layout = inode.inline ? layoutInline : layoutPlain;
  bytes.writeUInt16LE(1 | (layout << 1), at); // 1: extended
  if (inode.xattrs.length > 0) bytes.writeUInt16LE(1 + (inode.xattrs.length - 12) / 4, at + 2);
  bytes.writeUInt16LE(modeBits[node.kind] | node.mode, at + 4);
  bytes.writeBigUInt64LE(BigInt(node.kind === "file" ? node.size : inode.contentBytes), at + 8);
  bytes.writeUInt32LE(addressOf(inode, starts), at + 16);
  bytes.writeUInt32LE(Math.floor((at - firstInode) / 32) + 1, at + 20);
  bytes.writeUInt32LE(node.uid, at + 24);
  bytes.writeUInt32LE(node.gid, at + 28);
  bytes.writeBigUInt64LE(BigInt(node.mtime), at + 32);
  bytes.writeUInt32LE(node.mtimeNsec, at + 40);
  bytes.writeUInt32LE(inode.links, at + 44);
  inode.xattrs.copy(bytes, at + inodeBytes);
  if (inode.contentBytes === 0) return;
  const content = inode.inline ? at + inodeBytes + inode.xattrs.length : inode.contentPosition;
  if (node.kind === "symlink") bytes.write(node.link, content, "latin1");
  else writeDirectory(bytes, content, inode);
}

/** The field that is a block address for content, a device number for devices. */
function addressOf(inode: Inode, starts: Map<number, number>): number {
  const { node } = inode;
  switch (node.kind) {
    case "char":
    case "block": // as the kernel's new_encode_dev
      return ((node.minor & 0xff) | (node.major << 8) | ((node.minor & ~0xff) << 12)) >>> 0;
    case "fifo":
      return 0;
    case "file":
      return node.size === 0 ? noBlock : ((starts.get(node.layer) ?? 0) + node.offset) / erofsBlock;
    default:
      return inode.inline ? noBlock : inode.contentPosition / erofsBlock;
  }
}

/** How a folder's names spread over blocks: each block holds 12-byte entries, then their names. */
function directoryBlocks(names: { name: string }[]): { starts: number[]; bytes: number } {
  const starts = [0];
  let used = 0;
  names.forEach(({ name }, i) => {
    const wanted = 12 + name.length;
    if (used + wanted > erofsBlock) {
      starts.push(i);
      used = 0;
    }
    used += wanted;
  });
  return { starts, bytes: (starts.length - 1) * erofsBlock + used };
}

function writeDirectory(bytes: Buffer, at: number, inode: Inode): void {
  const { names } = inode;
  const { starts } = directoryBlocks(names);
  starts.forEach((first, block) => {
    const last = starts[block + 1] ?? names.length;
    const begin = at + block * erofsBlock;
    let nameOffset = (last - first) * 12;
    for (let i = first; i < last; i++) {
      const { name, inode: target } = names[i] as { name: string; inode: Inode };
      const entry = begin + (i - first) * 12;
      bytes.writeBigUInt64LE(BigInt(target.position / 32), entry);
      bytes.writeUInt16LE(nameOffset, entry + 8);
      bytes.writeUInt8(fileTypes[target.node.kind], entry + 10);
      bytes.write(name, begin + nameOffset, "latin1");
      nameOffset += name.length;
    }
  });
}

/** The attributes as they follow an inode: a 12-byte header, then entries aligned to 4. */
function encodeXattrs(xattrs: [string, string][]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of xattrs) {
    const found = xattrPrefixes.find(([prefix]) => name.startsWith(prefix));
    if (!found) throw new PodvmError("internal", `extended attribute ${name} has no EROFS prefix`);
    const rest = name.slice(found[0].length);
    const entry = Buffer.alloc(alignUp(4 + rest.length + value.length, 4));
    entry.writeUInt8(rest.length, 0);
    entry.writeUInt8(found[1], 1);
    entry.writeUInt16LE(value.length, 2);
    entry.write(rest, 4, "latin1");
    entry.write(value, 4 + rest.length, "latin1");
    parts.push(entry);
  }
  if (parts.length === 0) return Buffer.alloc(0);
  const whole = Buffer.concat([Buffer.alloc(12), ...parts]);
  if (whole.length > 0xffff * 4)
    throw new PodvmError("invalid_argument", "a file has more than 256 KiB of extended attributes");
  return whole;
}

function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
