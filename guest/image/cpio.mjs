// A writer for the kernel's initramfs format ("newc" cpio: Documentation/driver-api/early-userspace/buffer-format.rst). Everything is
// owned by root, has time 0 and comes in the order in which it was added, so that equal contents give equal bytes.

export class Cpio {
  #parts = [];
  #folders = new Set([""]);
  #inode = 0;

  /** Adds a folder and those above it. */
  folder(path, mode = 0o755) {
    const above = path.split("/").slice(0, -1).join("/");
    if (above !== "") this.folder(above);
    if (this.#folders.has(path)) return;
    this.#folders.add(path);
    this.#entry(path, 0o040000 | mode);
  }

  /** Adds a regular file; path without a leading slash. */
  file(path, data, mode = 0o644) {
    this.#above(path);
    this.#entry(path, 0o100000 | mode, data);
  }

  link(path, target) {
    this.#above(path);
    this.#entry(path, 0o120777, Buffer.from(target));
  }

  /** Adds a character device. */
  device(path, major, minor, mode) {
    this.#above(path);
    this.#entry(path, 0o020000 | mode, Buffer.alloc(0), major, minor);
  }

  /** The archive, closed by its trailer. */
  end() {
    this.#inode = -1; // the trailer has inode 0
    this.#entry("TRAILER!!!", 0);
    return Buffer.concat(this.#parts);
  }

  #above(path) {
    const above = path.split("/").slice(0, -1).join("/");
    if (above !== "") this.folder(above);
  }

  #entry(path, mode, data = Buffer.alloc(0), major = 0, minor = 0) {
    const name = Buffer.from(`${path}\0`);
    this.#inode += 1;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    const fields = [this.#inode, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
    const header = `070701${fields.map((f) => f.toString(16).toUpperCase().padStart(8, "0")).join("")}`;
    this.#parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(data));
  }
}

function padded(data) {
  const rest = data.length % 4;
  return rest === 0 ? data : Buffer.concat([data, Buffer.alloc(4 - rest)]);
}
