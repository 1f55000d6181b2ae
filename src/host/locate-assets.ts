/** Finds what setup made: `<assets>/{bundle,guest}/current` are links to content-addressed folders, `<assets>/bin` holds launcher and share. */
import { access, constants, realpath } from "node:fs/promises";
import type { Assets } from "./assets.js";
import { errno, PodvmError } from "./errors.js";

/** Assets with links resolved, so that a later update does not change them under whoever holds them. Rejects with failed_precondition. */
export async function locateAssets(assetsDir: string): Promise<Assets> {
  const bundle = await current(assetsDir, "bundle", "the runtime bundle (hypervisor, kernel, tools)", []);
  const guest = await current(assetsDir, "guest", "the guest image", ["vmlinux", "initrd"]);
  const launch = `${assetsDir}/bin/podvm-launch`;
  await access(launch, constants.X_OK).catch((err) => {
    throw lacks("podvm-launch", launch, err);
  });
  // The others are not looked for here: pods that need them say so where they are not there.
  return { bundle, guest, launch, agent: `${assetsDir}/bin/podvm-agent`, share: `${assetsDir}/bin/podvm-share` };
}

async function current(assetsDir: string, kind: string, what: string, files: string[]): Promise<string> {
  const link = `${assetsDir}/${kind}/current`;
  const folder = await realpath(link).catch((err) => {
    throw lacks(what, link, err);
  });
  for (const file of ["manifest.json", ...files]) {
    await access(`${folder}/${file}`).catch((err) => {
      throw lacks(what, `${folder}/${file}`, err);
    });
  }
  return folder;
}

function lacks(what: string, path: string, err: unknown): PodvmError {
  const found = errno(err) ?? String(err);
  return new PodvmError(
    "failed_precondition",
    `wanted ${what} at ${path}, found ${found}; run \`make setup\`, or set assets_dir to where it is`,
    { cause: err },
  );
}
