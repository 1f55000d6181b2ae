import { setImmediate } from "node:timers/promises";
import { PodvmError } from "../../host/errors.js";
import type { LayerEntry } from "../layer/entry.js";

/** A file, folder or other object of an image's tree; hard links are several names of one node. */
export interface TreeNode {
  kind: "file" | "directory" | "symlink" | "char" | "block" | "fifo";
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  mtimeNsec: number;
  size: number;
  /** Of a file with bytes: which layer's file holds them, and where. */
  layer: number;
  offset: number;
  link: string;
  major: number;
  minor: number;
  xattrs: [name: string, value: string][];
  /** Of a directory. Names are bytes as latin1 text. */
  children: Map<string, TreeNode>;
}

/** As the kernel (MAXSYMLINKS). */
const maxFollowed = 40;
/** Entries handled before other work of the server gets its turn. */
const slice = 2000;
const noChildren: Map<string, TreeNode> = new Map();

/**
 * The tree that a container of the image sees: what extracting the layers one over the other in an empty folder would give,
 * without extracting anything. Parents that no layer describes are made 0755 root; a symlink in the way to an entry is followed
 * inside the tree, as containerd does.
 */
export class ImageTree {
  readonly root: TreeNode = implicitDirectory();
  private count = 0;

  constructor(private readonly maxEntries: number) {}

  /** @param layer number by which the nodes' bytes are found later. Throws invalid_argument for entries that contradict each other. */
  async apply(entries: readonly LayerEntry[], layer: number): Promise<void> {
    this.count += entries.length;
    if (this.count > this.maxEntries)
      throw new PodvmError("resource_exhausted", `image has more than ${this.maxEntries} entries in its layers`);
    // Whiteouts hide what is below, never what their own layer brings, wherever in the tar they stand.
    for (const entry of entries) {
      if (entry.kind === "whiteout") this.hide(entry.path);
      else if (entry.kind === "opaque") this.empty(entry.path);
    }
    let turn = 0;
    for (const entry of entries) {
      if (entry.kind !== "whiteout" && entry.kind !== "opaque") this.put(entry, layer);
      turn += 1;
      if (turn % slice === 0) await setImmediate();
    }
  }

  private hide(path: string): void {
    const [folder, name] = split(path);
    this.folder(folder, false)?.children.delete(name);
  }

  private empty(path: string): void {
    this.folder(path, false)?.children.clear();
  }

  private put(entry: LayerEntry, layer: number): void {
    if (entry.path === "") {
      describe(this.root, entry);
      return;
    }
    const [folder, name] = split(entry.path);
    const parent = this.folder(folder, true);
    if (!parent) throw contradiction(entry, `${quoted(folder)} is no folder`);
    const there = parent.children.get(name);
    if (entry.kind === "hardlink") {
      const [targetFolder, targetName] = split(entry.link);
      const target = this.folder(targetFolder, false)?.children.get(targetName);
      if (!target) throw contradiction(entry, `it is a hard link to ${quoted(entry.link)}, which is not there`);
      if (target.kind === "directory")
        throw contradiction(entry, `it is a hard link to the folder ${quoted(entry.link)}`);
      parent.children.set(name, target);
      return;
    }
    if (there?.kind === "directory" && entry.kind === "directory") describe(there, entry);
    else parent.children.set(name, makeNode(entry, layer));
  }

  /** The folder at `path`, symlinks followed inside the tree. Undefined: there is none, or something else is in the way. */
  private folder(path: string, make: boolean): TreeNode | undefined {
    let stack = [this.root];
    const parts = path === "" ? [] : path.split("/").reverse();
    let followed = 0;
    for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
      if (part === "" || part === ".") continue;
      if (part === "..") {
        if (stack.length > 1) stack.pop();
        continue;
      }
      const here = stack.at(-1) as TreeNode;
      let next = here.children.get(part);
      if (!next) {
        if (!make || part.length > 255) return undefined;
        next = implicitDirectory();
        here.children.set(part, next);
      }
      if (next.kind === "symlink") {
        followed += 1;
        if (followed > maxFollowed) return undefined;
        if (next.link.startsWith("/")) stack = [this.root];
        parts.push(...next.link.split("/").reverse());
      } else if (next.kind === "directory") {
        stack.push(next);
      } else {
        return undefined;
      }
    }
    return stack.at(-1);
  }
}

function implicitDirectory(): TreeNode {
  return {
    kind: "directory",
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: 0,
    mtimeNsec: 0,
    size: 0,
    layer: 0,
    offset: 0,
    link: "",
    major: 0,
    minor: 0,
    xattrs: [],
    children: new Map(),
  };
}

function makeNode(entry: LayerEntry, layer: number): TreeNode {
  const { kind, uid, gid, mtime, mtimeNsec, size, offset, link, major, minor, xattrs } = entry;
  const mode = kind === "symlink" ? 0o777 : entry.mode; // Linux knows no other for them
  if (kind === "hardlink" || kind === "whiteout" || kind === "opaque")
    throw new PodvmError("internal", `node of ${kind}`);
  const children = kind === "directory" ? new Map<string, TreeNode>() : noChildren;
  return { kind, mode, uid, gid, mtime, mtimeNsec, size, layer, offset, link, major, minor, xattrs, children };
}

function describe(node: TreeNode, entry: LayerEntry): void {
  const { mode, uid, gid, mtime, mtimeNsec, xattrs } = entry;
  Object.assign(node, { mode, uid, gid, mtime, mtimeNsec, xattrs });
}

function split(path: string): [folder: string, name: string] {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? ["", path] : [path.slice(0, slash), path.slice(slash + 1)];
}

function quoted(path: string): string {
  return JSON.stringify(path.length > 120 ? `${path.slice(0, 120)}…` : path);
}

function contradiction(entry: LayerEntry, why: string): PodvmError {
  return new PodvmError("invalid_argument", `layer entry ${quoted(entry.path)} cannot be placed: ${why}`);
}
