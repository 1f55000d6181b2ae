/** One line of `podvm check`. */
export interface Finding {
  /** What was looked at: "KVM". */
  name: string;
  state: "ok" | "warn" | "fail";
  /** What was found. */
  found: string;
  /** What to do, where there is something. */
  advice?: string;
}

export const ok = (name: string, found: string): Finding => ({ name, state: "ok", found });
export const warn = (name: string, found: string, advice?: string): Finding => finding("warn", name, found, advice);
export const fail = (name: string, found: string, advice?: string): Finding => finding("fail", name, found, advice);

function finding(state: Finding["state"], name: string, found: string, advice: string | undefined): Finding {
  return { name, state, found, ...(advice === undefined ? {} : { advice }) };
}

/** As text for people. */
export function formatFindings(findings: Finding[]): string {
  const width = Math.max(...findings.map((one) => one.name.length));
  const mark = { ok: "ok  ", warn: "WARN", fail: "FAIL" };
  const indent = " ".repeat(width + 8);
  return findings
    .map(({ name, state, found, advice }) => {
      const lines = [`${mark[state]}  ${name.padEnd(width)}  ${found}`];
      if (advice) lines.push(`${indent}→ ${advice}`);
      return lines.join("\n");
    })
    .join("\n");
}
