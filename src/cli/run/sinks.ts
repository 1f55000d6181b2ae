import { once } from "node:events";
import type { Sink } from "./follow.js";

/** This process's own output, at its reader's pace. A reader that went away (EPIPE) rejects. */
export function standardSinks(): Record<"stdout" | "stderr", Sink> {
  return { stdout: sinkOf(process.stdout), stderr: sinkOf(process.stderr) };
}

function sinkOf(stream: NodeJS.WriteStream): Sink {
  let broken: Error | undefined;
  stream.on("error", (err) => {
    broken ??= err;
  });
  return {
    async write(chunk) {
      if (broken) throw broken;
      if (!stream.write(chunk)) await once(stream, "drain");
      if (broken) throw broken;
    },
  };
}
