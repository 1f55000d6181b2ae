/** The busybox root file system that most test images are made on, from Debian's packages. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { TarItem } from "./tar.js";
import { tool } from "./tools.js";

export const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`;

export const group = `root:x:0:
daemon:x:1:
tty:x:5:
wheel:x:10:root
www-data:x:33:
nogroup:x:65534:
`;

const folders = [
  "bin",
  "dev",
  "etc",
  "home",
  "lib",
  "lib/x86_64-linux-gnu",
  "lib64",
  "proc",
  "root",
  "run",
  "sys",
  "usr",
  "usr/bin",
  "var",
  "var/www",
];

/** Applets are hard links: with symbolic ones, hiding one applet's path would hide all. */
export function busyboxItems(): TarItem[] {
  const root = tool("busybox");
  const libraries = "lib/x86_64-linux-gnu";
  const loader = "lib64/ld-linux-x86-64.so.2";
  const program = join(root, "bin/busybox");
  const run = [join(root, loader), "--library-path", join(root, libraries), program, "--list"] as const;
  const applets = execFileSync(run[0], run.slice(1), { encoding: "utf8" }).split("\n").filter(Boolean);
  return [
    ...folders.map((name) => ({ name: `${name}/` })),
    { name: "tmp/", mode: 0o1777 },
    { name: "bin/busybox", mode: 0o755, data: readFileSync(program) },
    { name: loader, mode: 0o755, data: readFileSync(join(root, loader)) },
    ...readdirSync(join(root, libraries))
      .sort()
      .map((name) => ({ name: `${libraries}/${name}`, data: readFileSync(join(root, libraries, name)) })),
    ...applets
      .filter((name) => name !== "busybox")
      .map((name) => ({ name: `bin/${name}`, type: "1", link: "bin/busybox", mode: 0o755 })),
    { name: "usr/bin/env", link: "../../bin/env", mode: 0o777 },
    { name: "etc/passwd", data: passwd },
    { name: "etc/group", data: group },
  ];
}
