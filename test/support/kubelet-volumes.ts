/** Volumes as kubelet lays them out on the host: <root>/pods/UID/… */
import { mkdir, readlink, rename, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { random } from "./manifests.js";

/** Writes a generation as Kubernetes' AtomicWriter does, in its order. */
export async function atomicWrite(folder: string, files: Record<string, string>): Promise<void> {
  await mkdir(folder, { recursive: true });
  const old = await readlink(join(folder, "..data")).catch(() => undefined);
  const stamp = `..2026_01_01_00_00_00.${Number.parseInt(random(4), 16)}`;
  for (const [name, text] of Object.entries(files)) {
    await mkdir(join(folder, stamp, name, ".."), { recursive: true });
    await writeFile(join(folder, stamp, name), text, { mode: 0o644 });
  }
  await symlink(stamp, join(folder, "..data_tmp"));
  await rename(join(folder, "..data_tmp"), join(folder, "..data"));
  for (const name of new Set(Object.keys(files).map((file) => file.split("/")[0] as string))) {
    await symlink(`..data/${name}`, join(folder, name)).catch((err: NodeJS.ErrnoException) => {
      if (err.code !== "EEXIST") throw err;
    });
  }
  if (!old) return;
  for (const name of await removedNames(folder, old, files)) await unlink(join(folder, name));
  await rm(join(folder, old), { recursive: true });
}

async function removedNames(folder: string, old: string, files: Record<string, string>): Promise<string[]> {
  const { readdir } = await import("node:fs/promises");
  const kept = new Set(Object.keys(files).map((file) => file.split("/")[0]));
  return (await readdir(join(folder, old))).filter((name) => !kept.has(name));
}

/** An emptyDir of a pod, made as kubelet makes it. */
export async function emptyDir(root: string, podUid: string, name: string): Promise<string> {
  const path = join(root, "pods", podUid, "volumes/kubernetes.io~empty-dir", name);
  await mkdir(path, { recursive: true });
  const { chmod } = await import("node:fs/promises");
  await chmod(path, 0o777);
  return path;
}
