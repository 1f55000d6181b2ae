// Kernel modules out of the bundle: found by name, unpacked, ordered so that each comes after what it needs.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

/** The kernel takes "-" and "_" in module names for the same. */
const plain = (name) => name.replaceAll("-", "_");

/** modules.txt → [{name, parameters, later}], in order. */
export function readModuleList(path) {
  const lines = readFileSync(path, "utf8")
    .split("\n")
    .map((line) => line.trim());
  return lines
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const words = line.split(/\s+/);
      const later = words[0] === "later";
      const [name, ...parameters] = later ? words.slice(1) : words;
      return { name: plain(name), parameters: parameters.join(" "), later };
    });
}

export class ModuleTree {
  #files = new Map();
  #builtin;
  #xz;

  /** folder: with modules.builtin and kernel/; xz: program that unpacks. */
  constructor(folder, xz) {
    this.#xz = xz;
    const names = (text) =>
      text
        .split("\n")
        .filter(Boolean)
        .map((l) => plain(basename(l).replace(/\.ko$/, "")));
    this.#builtin = new Set(names(readFileSync(join(folder, "modules.builtin"), "utf8")));
    for (const path of readdirSync(join(folder, "kernel"), { recursive: true })) {
      const found = /([^/]+)\.ko(\.xz)?$/.exec(path);
      if (found) this.#files.set(plain(found[1]), join(folder, "kernel", path));
    }
  }

  /**
   * The wanted modules and all that they need, each after its own needs: [{name, parameters, later, data}]. Built-in ones are left out; what only
   * a later one needs is later too.
   */
  closure(wanted) {
    const out = [];
    const seen = new Set();
    const parametersOf = new Map(wanted.map(({ name, parameters }) => [name, parameters]));
    const visit = (name, askedBy, later) => {
      if (seen.has(name) || this.#builtin.has(name)) return;
      seen.add(name);
      const path = this.#files.get(name);
      if (path === undefined) throw new Error(`the kernel has no module ${name} (asked for by ${askedBy})`);
      const data = path.endsWith(".xz")
        ? execFileSync(this.#xz, ["-dc", path], { maxBuffer: 64 << 20 })
        : readFileSync(path);
      for (const need of needsOf(data, name)) visit(need, name, later);
      out.push({ name, parameters: parametersOf.get(name) ?? "", later, data: unsigned(data) });
    };
    for (const { name, later } of [...wanted].sort((a, b) => Number(a.later) - Number(b.later))) {
      visit(name, "modules.txt", later);
    }
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
 * Without the signature that is appended to a module (include/linux/module_signature.h: signature, 12 bytes that end with its length,
 * marker). Checking it costs the guest 20 million instructions a module; the kernel does not insist on it, and what it protects comes
 * from a package whose signature was checked, in a read-only image that is named by its digest.
 */
function unsigned(data) {
  const marker = "~Module signature appended~\n";
  const end = data.length - marker.length;
  if (data.toString("latin1", end) !== marker) return data;
  return data.subarray(0, end - 12 - data.readUInt32BE(end - 4));
}
