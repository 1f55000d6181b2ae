import { type FileHandle, open } from "node:fs/promises";
import { sleep } from "../../host/deadline.js";
import { errno } from "../../host/errors.js";
import { LogSplitter } from "./log-line.js";

const chunkBytes = 256 << 10;
/** Between looks at the file when it had nothing new. */
const idleMs = 50;

export interface Sink {
  write(chunk: Buffer): Promise<void>;
}

/**
 * Copies a container's log to two sinks from its beginning until `done` says that it will not grow any more and all of it is read. The file
 * may appear later. Answers how many lines were no log lines.
 */
export async function followLog(
  path: string,
  sinks: Record<"stdout" | "stderr", Sink>,
  done: () => boolean,
): Promise<number> {
  const splitter = new LogSplitter();
  const buffer = Buffer.alloc(chunkBytes);
  let file: FileHandle | undefined;
  let position = 0;
  try {
    for (;;) {
      const last = done(); // asked before the read: what comes in between is read in the next round
      file ??= await openIfThere(path);
      const bytesRead = file ? (await file.read(buffer, 0, buffer.length, position)).bytesRead : 0;
      position += bytesRead;
      for (const { stream, text, partial } of splitter.push(Buffer.from(buffer.subarray(0, bytesRead)))) {
        await sinks[stream].write(partial ? text : Buffer.concat([text, newline]));
      }
      if (bytesRead > 0) continue;
      if (last) return splitter.malformed;
      await sleep(idleMs);
    }
  } finally {
    await file?.close();
  }
}

const newline = Buffer.from("\n");

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (err) {
    if (errno(err) === "ENOENT") return undefined;
    throw err;
  }
}
