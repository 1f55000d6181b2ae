// Kernel modules out of the bundle: found by name, unpacked, ordered so that each comes after what it needs.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

/** The kernel takes "-" and "_" in module names for the same. */
const plain = (name) => name.replaceAll("-", "_");

/** modules.txt → [{kind: "boot" | "extra", name}]. */
export function readModuleList(path) {
  const list = [];
  for (const [i, line] of readFileSync(path, "utf8").split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [kind, name, ...rest] = line.trim().split(/\s+/);
    if (!["boot", "extra"].includes(kind) || !name || rest.length > 0) {
      throw new Error(`${path}:${i + 1}: wanted "boot NAME" or "extra NAME", found "${line}"`);
    }
    list.push({ kind, name: plain(name) });
  }
  return list;
}

export class ModuleTree {
  #files = new Map();
  #builtin;
  #xz;

  /** folder: with modules.builtin and kernel/; xz: program that unpacks. */
  constructor(folder, xz) {
    this.#xz = xz;
    const names = (text) => text.split("\n").filter(Boolean).map((l) => plain(basename(l).replace(/\.ko$/, "")));
    this.#builtin = new Set(names(readFileSync(join(folder, "modules.builtin"), "utf8")));
    for (const path of readdirSync(join(folder, "kernel"), { recursive: true })) {
      const found = /([^/]+)\.ko(\.xz)?$/.exec(path);
      if (found) this.#files.set(plain(found[1]), join(folder, "kernel", path));
    }
  }

  /**
   * The modules `names` and all that they need, each after its own needs: [{name, data, needs}]. Built-in ones and those in
   * `loaded` (a Set of names, to which the result is added) are left out.
   */
  closure(names, loaded = new Set()) {
    const out = [];
    const visit = (name, askedBy) => {
      if (loaded.has(name) || this.#builtin.has(name)) return;
      loaded.add(name);
      const path = this.#files.get(name);
      if (path === undefined) throw new Error(`the kernel has no module ${name} (asked for by ${askedBy})`);
      const data = path.endsWith(".xz")
        ? execFileSync(this.#xz, ["-dc", path], { maxBuffer: 64 << 20 })
        : readFileSync(path);
      const needs = needsOf(data, name).filter((n) => !this.#builtin.has(n));
      for (const n of needs) visit(n, name);
      out.push({ name, data: unsigned(data), needs });
    };
    for (const name of names) visit(name, "modules.txt");
    return out;
  }
}

/** "depends=a,b" in the module's .modinfo: strings that end in NUL. */
function needsOf(data, name) {
  const at = data.indexOf("\0depends=") + 1 || data.indexOf("depends=") + 1;
  if (at === 0) throw new Error(`module ${name} does not say what it depends on: not a kernel module?`);
  const start = data.indexOf("=", at) + 1;
  return data.toString("latin1", start, data.indexOf(0, start)).split(",").filter(Boolean).map(plain);
}

/**
 * Without the signature that is appended to a module (include/linux/module_signature.h: signature, 12 bytes that end with its length, marker). Checking it costs the guest 20 million instructions a module, and what it protects, a read-only image named by its digest, is
 * checked on the host; the kernel does not insist on it.
 */
function unsigned(data) {
  const marker = "~Module signature appended~\n";
  const end = data.length - marker.length;
  if (data.toString("latin1", end) !== marker) return data;
  return data.subarray(0, end - 12 - data.readUInt32BE(end - 4));
}
