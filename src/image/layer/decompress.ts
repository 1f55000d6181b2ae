import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { PodvmError } from "../../host/errors.js";

export type Compression = "none" | "gzip" | "zstd";

/** What the first bytes say; registries hold layers whose media type says otherwise. */
export function compressionOf(start: Buffer): Compression {
  if (start.length >= 2 && start[0] === 0x1f && start[1] === 0x8b) return "gzip";
  if (start.length >= 4 && start.readUInt32LE(0) === 0xfd2fb528) return "zstd";
  return "none";
}

const outputChunk = 256 * 1024;
const nobody = 65534;

/**
 * The plain bytes of a layer. gzip runs on Node's thread pool, zstd in the bundle's own program (Node 20 has none). Nothing is
 * left running when the consumer stops or the input fails. Throws invalid_argument for data that is not what its start promised.
 */
export async function* decompress(
  input: AsyncIterable<Buffer>,
  zstd: string,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const iterator = input[Symbol.asyncIterator]();
  const first: Buffer[] = [];
  let have = 0;
  let ended = false;
  while (have < 4 && !ended) {
    const { value, done } = await iterator.next();
    if (done) ended = true;
    else {
      first.push(value);
      have += value.length;
    }
  }
  const whole = (async function* () {
    try {
      yield* first;
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.();
    }
  })();
  switch (compressionOf(Buffer.concat(first))) {
    case "none":
      return yield* whole;
    case "gzip":
      return yield* gunzip(whole);
    case "zstd":
      return yield* unzstd(whole, zstd, signal);
  }
}

/** Feeds `sink` with back-pressure; a failure of the source ends the sink's other side with it. */
async function feed(source: AsyncIterable<Buffer>, sink: NodeJS.WritableStream, gone: Promise<void>): Promise<void> {
  for await (const chunk of source) {
    if (sink.write(chunk)) continue;
    let drained = () => {};
    const drain = new Promise<void>((resolve) => {
      drained = resolve;
      sink.once("drain", drained);
    });
    await Promise.race([drain, gone]);
    sink.removeListener("drain", drained);
    if (!sink.writable) return;
  }
  sink.end();
}

async function* gunzip(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const stream = createGunzip({ chunkSize: outputChunk });
  const gone = new Promise<void>((resolve) => stream.once("close", resolve));
  const feeding = feed(source, stream, gone).catch((err) => {
    stream.destroy(err);
    throw err;
  });
  feeding.catch(() => {}); // awaited below; meanwhile it must not count as unhandled
  try {
    yield* stream as AsyncIterable<Buffer>;
  } catch (err) {
    if (err instanceof PodvmError) throw err;
    throw new PodvmError("invalid_argument", `layer is not valid gzip: ${(err as Error).message}`, { cause: err });
  } finally {
    stream.destroy();
  }
  await feeding;
}

async function* unzstd(source: AsyncIterable<Buffer>, program: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
  // It reads what strangers made: as nobody, with nothing of our environment. -M: the largest window that a frame may ask for.
  const unprivileged = process.getuid?.() === 0 ? { uid: nobody, gid: nobody } : {};
  const child = spawn(program, ["-dcq", "-M128MB", "-"], {
    stdio: ["pipe", "pipe", "pipe"],
    cwd: "/",
    env: {},
    ...unprivileged,
  });
  const kill = () => child.kill("SIGKILL");
  signal?.addEventListener("abort", kill, { once: true });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    if (said.length < 2000) said += chunk.toString("utf8");
  });
  const exit = new Promise<PodvmError | undefined>((resolve) => {
    child.once("error", (cause) =>
      resolve(new PodvmError("failed_precondition", `cannot run ${program}: ${cause.message}`, { cause })),
    );
    child.once("close", (code) =>
      resolve(
        code === 0 ? undefined : new PodvmError("invalid_argument", `layer is not valid zstd: ${said.trim() || code}`),
      ),
    );
  });
  child.stdin.on("error", () => {}); // it ended early: its exit tells why
  const gone = exit.then(() => {});
  const feeding = feed(source, child.stdin, gone).catch((err) => {
    child.kill("SIGKILL");
    throw err;
  });
  feeding.catch(() => {});
  try {
    yield* child.stdout as Readable as AsyncIterable<Buffer>;
    const failure = await exit;
    await feeding;
    if (failure) throw failure;
  } finally {
    signal?.removeEventListener("abort", kill);
    kill();
  }
}
