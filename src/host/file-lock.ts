/** Locks between processes, which Node cannot take itself: flock(1) holds one for as long as its standard input is open. */
import { spawn } from "node:child_process";
import { PodvmError } from "./errors.js";

/**
 * Runs `work` while this process alone holds the lock of that file, which is made where it is missing. Rejects with unavailable, and `hint`, when another
 * holds it for longer than `deadlineMs`. The lock goes when `work` ends, or with this process.
 */
export async function whileLocked<T>(
  path: string,
  deadlineMs: number,
  hint: string,
  work: () => Promise<T>,
): Promise<T> {
  const seconds = String(Math.max(1, Math.ceil(deadlineMs / 1000)));
  const holder = spawn("flock", ["-w", seconds, path, "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise<void>((resolve) => holder.once("close", () => resolve()));
  holder.stdin.on("error", () => {}); // it may have ended already
  try {
    await new Promise<void>((resolve, reject) => {
      const refuse = (why: string, cause?: unknown) =>
        reject(new PodvmError("unavailable", `cannot take ${path}: ${why}; ${hint}`, { cause }));
      holder.once("error", (err) => refuse(err.message, err));
      holder.once("close", (code) => refuse(`flock ended with ${code} within ${seconds} s`));
      holder.stdout.once("data", () => resolve());
    });
    return await work();
  } finally {
    holder.stdin.end();
    await ended;
  }
}
