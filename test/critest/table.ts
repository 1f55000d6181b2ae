/** What a run looks like on the screen. */
import type { Run } from "./run.js";

/** Seconds that containerd 2.3.3 with runc 1.4.0 took serially, on a quiet machine of the same kind; not measured in this run. */
const containerdSeconds = 150;

/** One line per group, then failures, skips with their reasons, and the slowest specs. */
export function table(run: Run): string {
  const groups = [...new Set(run.specs.map((spec) => spec.group))].sort();
  const rows = groups.map((group) => {
    const specs = run.specs.filter((spec) => spec.group === group);
    const count = (state: string) => specs.filter((spec) => spec.state === state).length;
    const hosts = specs.filter((spec) => run.hostPodSpecs.includes(spec)).length;
    const seconds = specs.reduce((sum, spec) => sum + spec.seconds, 0);
    return [group, count("passed"), count("failed"), count("skipped"), hosts, seconds.toFixed(1)];
  });
  const total = (column: number) => rows.reduce((sum, row) => sum + Number(row[column]), 0);
  const all = [
    ["group", "passed", "failed", "skipped", "host pods", "seconds"],
    ...rows,
    ["all", total(1), total(2), total(3), total(4), total(5).toFixed(1)],
  ];
  const widths = [0, 1, 2, 3, 4, 5].map((column) => Math.max(...all.map((row) => String(row[column]).length)));
  const line = (row: (string | number)[]) =>
    row
      .map((cell, at) => (at === 0 ? String(cell).padEnd(widths[at] ?? 0) : String(cell).padStart(widths[at] ?? 0)))
      .join("  ");
  return all.map((row) => `  ${line(row)}`).join("\n");
}

export function details(run: Run): string {
  const lines: string[] = [];
  const failed = run.specs.filter((spec) => spec.state === "failed");
  for (const spec of failed) {
    // What Gomega prints of an error's inside comes after its text.
    const said = spec.message.split("\nUnexpected error:")[0] ?? "";
    const text = said.split("\n").slice(0, 12).join("\n      ").slice(0, 1500);
    lines.push(`  FAILED  ${spec.group}: ${spec.name} (${spec.where}, ${spec.seconds.toFixed(1)} s)`, `      ${text}`);
  }
  lines.push(...run.suiteFailures.map((why) => `  FAILED  ${why}`));
  const skipped = run.specs.filter((spec) => spec.state === "skipped");
  for (const reason of new Set(skipped.map((spec) => spec.message))) {
    const same = skipped.filter((spec) => spec.message === reason);
    const groups = [...new Set(same.map((spec) => spec.group))].join(", ");
    lines.push(`  skipped ${same.length}: ${groups}: ${reason}`);
  }
  if (run.hostPodSpecs.length > 0) {
    lines.push(
      "  ran without a VM, as host pods:",
      ...run.hostPodSpecs.map((spec) => `    ${spec.group}: ${spec.name}`),
    );
  }
  return lines.join("\n");
}

/** The slowest specs, and what all specs took. */
export function slowest(run: Run, count = 20): string {
  const sorted = [...run.specs].sort((a, b) => b.seconds - a.seconds).slice(0, count);
  return sorted.map((spec) => `  ${spec.seconds.toFixed(1).padStart(6)} s  ${spec.group}: ${spec.name}`).join("\n");
}

export function times(run: Run): string {
  const beside =
    run.name === "serial" ? ` (containerd: ${containerdSeconds} s, a reference figure, not measured here)` : "";
  return `  ${run.name}: ${run.seconds.toFixed(0)} s${beside}`;
}
