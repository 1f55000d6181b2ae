import type { IncomingMessage } from "node:http";

/** Entries of a header that is a list. */
export function listed(request: IncomingMessage, name: string): string[] {
  const value = request.headers[name];
  return (Array.isArray(value) ? value : [value ?? ""])
    .flatMap((part) => part.split(","))
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

/** The first of the client's protocols, which it lists by preference, that is spoken here. */
export function choose<Protocol extends string>(
  wanted: readonly string[],
  spoken: readonly Protocol[],
): Protocol | undefined {
  for (const name of wanted) {
    const found = spoken.find((protocol) => protocol === name);
    if (found) return found;
  }
  return undefined;
}
