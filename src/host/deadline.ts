import { PodvmError } from "./errors.js";

/**
 * Awaits `work`, at most `ms` milliseconds; after that rejects with deadline_exceeded naming `what`. The work itself is not
 * stopped: pass `signal`-taking work a signal of its own.
 */
export async function withDeadline<T>(work: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new PodvmError("deadline_exceeded", `${what}: not done within ${Math.round(ms)} ms`)),
      ms,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => {}); // lost the race: its late rejection has no other listener
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
