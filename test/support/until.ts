import { setTimeout as sleep } from "node:timers/promises";

/**
 * Asks again and again (every 100 ms) until the answer is neither undefined, false nor a thrown error; that answer.
 * Rejects after `ms` milliseconds with `what` and the last error.
 */
export async function until<T>(
  what: string,
  ms: number,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = Date.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
      last = undefined;
    } catch (err) {
      last = err;
    }
    if (Date.now() > deadline) {
      const why = last instanceof Error ? `: ${last.message}` : "";
      throw new Error(`${what}: not within ${ms} ms${why}`);
    }
    await sleep(100);
  }
}
