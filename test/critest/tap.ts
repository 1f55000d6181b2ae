/** The Test Anything Protocol, as test/run.mjs reads it. */
import type { Run } from "./run.js";

/** One line per spec, one for what is wrong with the run as a whole, one for what it left behind. */
export function tapLines(runs: Run[], leaked: string): string[] {
  const lines: string[] = [];
  const say = (ok: boolean, title: string, rest = "") =>
    lines.push(`${ok ? "" : "not "}ok ${lines.length + 1} - ${title.replaceAll("#", "")}${rest}`);
  for (const run of runs) {
    for (const spec of run.specs) {
      const title = `${run.name}: ${spec.group}: ${spec.name}`;
      if (spec.state === "skipped") say(true, `${title}: ${spec.message}`, " # SKIP");
      else say(spec.state === "passed", title);
    }
    say(run.suiteFailures.length === 0, `${run.name}: the run ended as it should`);
  }
  say(leaked === "", "nothing is left behind on the node");
  return lines;
}
