import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { PodvmError } from "../../host/errors.js";
import { decompress } from "./decompress.js";
import type { LayerEntry } from "./entry.js";
import { expandSparse } from "./sparse-files.js";
import { type ScanLimits, TarScanner } from "./tar-scanner.js";

export interface UnpackLimits extends ScanLimits {
  /** Bytes that one layer may take on disk; what stops a decompression bomb. */
  maxLayerBytes: number;
}

export interface UnpackOptions {
  /** File to make, mode 0444. On failure the caller removes the folder that it is in. */
  path: string;
  /** sha256 of the uncompressed tar, as the image configuration states. */
  diffId: string;
  /** Path of the zstd program. */
  zstd: string;
  limits: UnpackLimits;
  signal?: AbortSignal;
}

export interface UnpackedLayer {
  entries: LayerEntry[];
  /** Of the file, a multiple of 4096. */
  bytes: number;
}

const writeBytes = 1 << 20;
const fileAlign = 4096;

/**
 * Turns a layer's compressed stream into a file: its tar as it is, then the sparse files put together, then zeros to a multiple
 * of 4096. Durable when it resolves. Throws invalid_argument for a wrong diffID or a bad tar, resource_exhausted for too much.
 */
export async function unpackLayer(compressed: AsyncIterable<Buffer>, options: UnpackOptions): Promise<UnpackedLayer> {
  const { path, diffId, zstd, limits, signal } = options;
  const [algorithm = "", wanted] = diffId.split(":");
  const hash = createHash(algorithm);
  const scanner = new TarScanner(limits);
  const file = await open(path, "wx+", 0o444);
  try {
    const writer = new FileWriter(file);
    for await (const chunk of decompress(compressed, zstd, signal)) {
      hash.update(chunk);
      scanner.push(chunk);
      if (writer.bytes + chunk.length > limits.maxLayerBytes) {
        throw new PodvmError(
          "resource_exhausted",
          `layer unpacks to more than ${limits.maxLayerBytes} bytes (image.max_unpacked_gib)`,
        );
      }
      await writer.write(chunk);
    }
    scanner.end();
    const found = hash.digest("hex");
    if (found !== wanted) {
      throw new PodvmError(
        "invalid_argument",
        `layer unpacks to ${algorithm}:${found}, the image configuration wants ${diffId}`,
      );
    }
    await writer.flush();
    const used = await expandSparse(file, scanner.entries, writer.bytes, limits.maxLayerBytes);
    const bytes = Math.ceil(used / fileAlign) * fileAlign;
    await file.truncate(bytes);
    await file.datasync();
    return { entries: scanner.entries, bytes };
  } finally {
    await file.close();
  }
}

/** Gathers chunks so that writes are large. */
class FileWriter {
  bytes = 0;
  private chunks: Buffer[] = [];
  private pending = 0;

  constructor(private readonly file: FileHandle) {}

  async write(chunk: Buffer): Promise<void> {
    this.chunks.push(chunk);
    this.pending += chunk.length;
    this.bytes += chunk.length;
    if (this.pending >= writeBytes) await this.flush();
  }

  async flush(): Promise<void> {
    let { chunks } = this;
    this.chunks = [];
    let left = this.pending;
    this.pending = 0;
    while (left > 0) {
      const { bytesWritten } = await this.file.writev(chunks);
      left -= bytesWritten;
      if (left > 0) chunks = [Buffer.concat(chunks).subarray(bytesWritten)]; // cut short, as on a full disk: the next try tells
    }
  }
}
