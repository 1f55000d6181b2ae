// node mkimage.mjs BUNDLE AGENT OUT DIGEST: writes vmlinux, initrd and manifest.json into the folder OUT. The bytes depend on nothing
// but the bundle's kernel and crun, the agent, and the files beside this one. What is where in the guest: docs/guest-image.md.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { Cpio } from "./cpio.mjs";
import { ModuleTree, readModuleList } from "./modules.mjs";
import { extractVmlinux } from "./vmlinux.mjs";

const [bundle, agentPath, out, digest] = process.argv.slice(2);
const here = import.meta.dirname;
const sha256 = (data) => createHash("sha256").update(data).digest("hex");

const agent = readFileSync(agentPath);
checkAgent(agent);
const bundleManifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const vmlinux = extractVmlinux(readFileSync(join(bundle, "kernel/vmlinuz")), join(bundle, "bin"));

const tree = new ModuleTree(join(bundle, "kernel/modules"), join(bundle, "bin/xz"));
const modules = tree.closure(readModuleList(join(here, "modules.txt")));

const initrd = makeInitrd();
writeFileSync(join(out, "vmlinux"), vmlinux);
writeFileSync(join(out, "initrd"), initrd);
const manifest = {
  digest,
  kernel: bundleManifest.tools.kernel,
  crun: bundleManifest.tools.crun,
  agentSha256: sha256(agent),
  cmdline: readFileSync(join(here, "cmdline.txt"), "utf8").replace(/#.*\n/g, "").trim().replace(/\s+/g, " "),
  modules: modules.map((m) => m.name),
  files: { vmlinux: sha256(vmlinux), initrd: sha256(initrd) },
};
writeFileSync(join(out, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);

function makeInitrd() {
  const cpio = new Cpio();
  for (const f of ["bin", "dev", "etc", "lib", "lib64", "mnt", "modules", "proc", "root", "run", "sys", "tmp", "var"])
    cpio.folder(f);
  // The kernel opens /dev/console for its first process before anything is mounted.
  cpio.device("dev/console", 5, 1, 0o600);
  cpio.device("dev/null", 1, 3, 0o666);
  cpio.device("dev/kmsg", 1, 11, 0o600);
  cpio.file("etc/passwd", Buffer.from("root:x:0:0:root:/root:/sbin/nologin\n"));
  cpio.file("etc/group", Buffer.from("root:x:0:\n"));
  cpio.file("etc/crun-version", Buffer.from(`crun version ${bundleManifest.tools.crun}\n`));
  cpio.file("init", agent, 0o755);
  cpio.file("bin/crun", readFileSync(join(bundle, "kernel/crun")), 0o755);
  cpio.file("lib64/ld-linux-x86-64.so.2", readFileSync(join(bundle, "lib/ld-linux-x86-64.so.2")), 0o755);
  for (const library of librariesOf(join(bundle, "kernel/crun"))) {
    cpio.file(`lib/x86_64-linux-gnu/${basename(library)}`, readFileSync(library));
  }
  for (const m of modules) cpio.file(`modules/${m.name}.ko`, m.data);
  cpio.file("modules/order", listOf(modules.filter((m) => !m.later)));
  cpio.file("modules/later", listOf(modules.filter((m) => m.later)));
  return cpio.end();
}

/** "FILE [PARAMETERS]" a line, as the agent reads it. */
function listOf(some) {
  return Buffer.from(some.map((m) => `${`${m.name}.ko ${m.parameters}`.trim()}\n`).join(""));
}

/** Paths in the bundle of the shared libraries that a program needs, sorted. */
function librariesOf(program) {
  const lib = join(bundle, "lib");
  const said = execFileSync(join(lib, "ld-linux-x86-64.so.2"), ["--library-path", lib, "--list", program], {
    encoding: "utf8",
  });
  const found = [...said.matchAll(/=> (\/\S+)/g)].map((m) => m[1]).filter((p) => !p.endsWith("ld-linux-x86-64.so.2"));
  if (/not found/.test(said) || found.length === 0)
    throw new Error(`the bundle lacks libraries of ${program}:\n${said}`);
  return found.sort();
}

/** The first process must run without any library. */
function checkAgent(elf) {
  if (elf.toString("hex", 0, 5) !== "7f454c4602") throw new Error(`${agentPath} is no 64-bit ELF program`);
  const table = Number(elf.readBigUInt64LE(0x20));
  for (let i = 0; i < elf.readUInt16LE(0x38); i++) {
    if (elf.readUInt32LE(table + i * elf.readUInt16LE(0x36)) === 3) {
      throw new Error(`${agentPath} needs a loader (it is not static): build it for x86_64-unknown-linux-musl`);
    }
  }
}
