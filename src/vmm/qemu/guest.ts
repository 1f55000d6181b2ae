/** What a guest image folder holds for booting. */
import { access } from "node:fs/promises";
import * as v from "valibot";
import { PodvmError } from "../../host/errors.js";
import { readFileIfThere } from "../../host/files.js";
import { DEFAULT_CMDLINE, type GuestBoot } from "./command.js";

const Manifest = v.object({ cmdline: v.optional(v.pipe(v.string(), v.maxLength(2000))) });

/** Rejects with failed_precondition where kernel or initrd is missing. */
export async function readGuest(folder: string): Promise<GuestBoot> {
  const [kernel, initrd] = [`${folder}/vmlinux`, `${folder}/initrd`];
  for (const path of [kernel, initrd]) {
    await access(path).catch((cause) => {
      throw new PodvmError("failed_precondition", `the guest image lacks ${path}: run setup again`, { cause });
    });
  }
  const text = await readFileIfThere(`${folder}/manifest.json`);
  if (text === undefined) return { kernel, initrd, cmdline: DEFAULT_CMDLINE };
  const { cmdline } = v.parse(Manifest, JSON.parse(text));
  return { kernel, initrd, cmdline: cmdline ?? DEFAULT_CMDLINE };
}
