/** One challenge of a WWW-Authenticate header: RFC 9110, 11.6.1. Scheme and parameter names in lower case. */
export interface Challenge {
  scheme: string;
  parameters: Map<string, string>;
}

const maxHeader = 8192;

/** Challenges in the order of the header; what cannot be parsed ends the list. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  let rest = header.slice(0, maxHeader);
  while (rest !== "") {
    const scheme = /^[\s,]*([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?:\s+|$|(?=,))(?!=)/.exec(rest);
    if (!scheme) return challenges;
    rest = rest.slice(scheme[0].length);
    const parameters = new Map<string, string>();
    for (;;) {
      const parameter = /^[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/.exec(rest);
      if (!parameter) break;
      rest = rest.slice(parameter[0].length);
      const value = parameter[2]?.replace(/\\(.)/g, "$1") ?? parameter[3] ?? "";
      parameters.set((parameter[1] ?? "").toLowerCase(), value);
    }
    challenges.push({ scheme: (scheme[1] ?? "").toLowerCase(), parameters });
  }
  return challenges;
}
