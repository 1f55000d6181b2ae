import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

let found: string | undefined;

/** The version in the package.json of the package that this file belongs to, be it run from a build folder or not. */
export function podvmVersion(): string {
  found ??= lookUp(dirname(fileURLToPath(import.meta.url)));
  return found;
}

function lookUp(folder: string): string {
  try {
    const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { name?: string; version?: string };
    if (about.name === "podvm" && about.version) return about.version;
  } catch {
    // not in this folder: look in the one above
  }
  const above = dirname(folder);
  return above === folder ? "unknown" : lookUp(above);
}
