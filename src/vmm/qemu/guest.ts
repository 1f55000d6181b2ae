/** What a guest image folder holds for booting. */
import { access } from "node:fs/promises";
import * as v from "valibot";
import { PodvmError } from "../../host/errors.js";
import { readFileIfThere } from "../../host/files.js";
import type { GuestBoot } from "./command.js";

const Manifest = v.object({ cmdline: v.pipe(v.string(), v.minLength(1), v.maxLength(2000)) });

/** Rejects with failed_precondition where kernel, initrd or manifest.json is missing, or the manifest names no kernel command line. */
export async function readGuest(folder: string): Promise<GuestBoot> {
  const [kernel, initrd] = [`${folder}/vmlinux`, `${folder}/initrd`];
  for (const path of [kernel, initrd]) {
    await access(path).catch((cause) => {
      throw new PodvmError("failed_precondition", `the guest image lacks ${path}: run setup again`, { cause });
    });
  }
  const path = `${folder}/manifest.json`;
  const text = await readFileIfThere(path);
  if (text === undefined) throw new PodvmError("failed_precondition", `the guest image lacks ${path}: run setup again`);
  const manifest = v.safeParse(Manifest, parseJson(text));
  if (!manifest.success) {
    const why = manifest.issues[0].message;
    throw new PodvmError(
      "failed_precondition",
      `${path}: wanted "cmdline", the guest's kernel command line: ${why}: run setup again`,
    );
  }
  return { kernel, initrd, cmdline: manifest.output.cmdline };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
