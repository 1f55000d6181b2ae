/** The builders' lock (bundle/lib.sh), which Node cannot take itself: flock(1) holds it for as long as its standard input is open. */
import { spawn } from "node:child_process";
import { PodvmError } from "../host/errors.js";

/**
 * Runs `work` while no asset folder of that kind is being built. Rejects with unavailable when a build holds the lock for longer than
 * `deadlineMs`. The lock goes when `work` ends, or with this process.
 */
export async function whileNobodyBuilds<T>(kindFolder: string, deadlineMs: number, work: () => Promise<T>): Promise<T> {
  const lock = `${kindFolder}/.lock`;
  const seconds = String(Math.max(1, Math.ceil(deadlineMs / 1000)));
  const holder = spawn("flock", ["-w", seconds, lock, "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise<void>((resolve) => holder.once("close", () => resolve()));
  holder.stdin.on("error", () => {}); // it may have ended already
  try {
    await new Promise<void>((resolve, reject) => {
      const refuse = (why: string, cause?: unknown) =>
        reject(new PodvmError("unavailable", `cannot take ${lock}: ${why}; try again when no build runs`, { cause }));
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
