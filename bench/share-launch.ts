/**
 * podvm-launch for bench/share.ts: `share-launch.js LAUNCH SOCKET` gives the VM a virtio-fs device whose server listens on SOCKET, with the tag "bench", and
 * memory that it can share with that server, and passes the document on. All else stays as podvm starts every VM.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { LaunchDocument } from "../src/vmm/launch.js";

const [launcher, socket] = process.argv.slice(2);
if (!launcher || !socket) throw new Error("usage: share-launch.js LAUNCH SOCKET");
const document = JSON.parse(readFileSync(0, "utf8")) as LaunchDocument;
const memory = document.args.findIndex((arg) => arg.startsWith("memory-backend-ram,"));
if (memory < 0) throw new Error("the VM's memory is not what this benchmark knows");
document.args[memory] = (document.args[memory] ?? "")
  .replace("memory-backend-ram", "memory-backend-memfd")
  .replace("share=off", "share=on");
document.args.push("-chardev", `socket,id=bench,path=${socket}`);
document.args.push("-device", "vhost-user-fs-pci,chardev=bench,tag=bench,queue-size=1024");
document.root.binds.push({ path: dirname(socket), access: "write" });
const { status } = spawnSync(launcher, { input: JSON.stringify(document), stdio: ["pipe", "inherit", "inherit"] });
process.exit(status ?? 1);
