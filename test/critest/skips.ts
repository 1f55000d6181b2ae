/** critest-config/skip.txt: which specs may be skipped, and why. A spec that skips itself for any other reason counts as failed. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { projectRoot } from "../support/tools.js";
import type { Spec } from "./report.js";

interface Allowed {
  pattern: RegExp;
  reason: string;
}

/** Lines: "# reason", then the regular expressions that it holds for. */
export function allowedSkips(): Allowed[] {
  const lines = readFileSync(join(projectRoot, "critest-config/skip.txt"), "utf8").split("\n");
  const allowed: Allowed[] = [];
  let reason = "";
  let inComment = false;
  for (const line of lines.map((text) => text.trim()).filter(Boolean)) {
    if (line.startsWith("#")) {
      const text = line.slice(1).trim();
      reason = inComment ? `${reason} ${text}` : text;
      inComment = true;
    } else {
      allowed.push({ pattern: new RegExp(line), reason });
      inComment = false;
    }
  }
  return allowed;
}

/** Why `spec` may be skipped, or undefined. */
export function skipReason(spec: Spec, allowed: Allowed[]): string | undefined {
  return allowed.find(({ pattern }) => pattern.test(`${spec.group} ${spec.name}`))?.reason;
}
