import type { FileHandle } from "node:fs/promises";
import { PodvmError } from "../../host/errors.js";
import type { LayerEntry } from "./entry.js";

const copyBytes = 1 << 20;
const align = 512;

/**
 * Puts sparse files together behind the tar, where EROFS finds them as one run of blocks; the holes are holes on this disk too.
 * @param end where the tar ends; @returns where the file ends now
 */
export async function expandSparse(
  file: FileHandle,
  entries: LayerEntry[],
  end: number,
  maxBytes: number,
): Promise<number> {
  let at = Math.ceil(end / align) * align;
  for (const entry of entries) {
    if (!entry.sparse) continue;
    if (at + entry.size > maxBytes) {
      throw new PodvmError("resource_exhausted", `layer unpacks to more than ${maxBytes} bytes with its sparse files`);
    }
    let from = entry.offset;
    for (const piece of entry.sparse) {
      await copyWithin(file, from, at + piece.offset, piece.bytes);
      from += piece.bytes;
    }
    entry.offset = at;
    delete entry.sparse;
    at = Math.ceil((at + entry.size) / align) * align;
  }
  return at;
}

async function copyWithin(file: FileHandle, from: number, to: number, bytes: number): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(bytes, copyBytes));
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, bytes - done), from + done);
    if (bytesRead === 0) throw new PodvmError("internal", "layer file is shorter than what was written to it");
    await file.write(buffer, 0, bytesRead, to + done);
    done += bytesRead;
  }
}
