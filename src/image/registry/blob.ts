import { createHash } from "node:crypto";
import { PodvmError } from "../../host/errors.js";
import type { Descriptor } from "./media-types.js";
import { failureOf, type RepositoryClient } from "./repository.js";
import { backOff } from "./retry.js";
import { transportError } from "./transport.js";

/** However often it makes a little progress, a blob is given up after so many connections. */
const maxConnections = 100;

/**
 * The bytes of a blob, in order, exactly `descriptor.size` of them and of its digest, or an error at the end at the latest: the
 * consumer must not trust a byte before the generator has returned. A connection that breaks, stalls or ends early is followed by
 * another for the rest (Range); a server that ignores Range has what was there before passed over.
 * @param onBytes called with the count of bytes that are there
 */
export async function* fetchBlob(
  repository: RepositoryClient,
  descriptor: Descriptor,
  onBytes: (done: number) => void,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const { digest, size } = descriptor;
  const what = `${repository.name}/blobs/${digest}`;
  const [algorithm = "", wanted] = digest.split(":");
  const hash = createHash(algorithm);
  let done = 0;
  let idleAttempts = 0;
  for (let connection = 1; ; connection++) {
    const before = done;
    try {
      if (connection === 1 || done < size) {
        for await (const chunk of blobFrom(repository, descriptor, done, signal)) {
          if (done + chunk.length > size) {
            throw new PodvmError("invalid_argument", `${what}: larger than the ${size} bytes that the manifest states`);
          }
          done += chunk.length;
          hash.update(chunk);
          onBytes(done);
          yield chunk;
        }
      }
      if (done === size) break;
      throw new PodvmError("unavailable", `${what}: ended after ${done} of ${size} bytes`);
    } catch (err) {
      idleAttempts = done > before ? 1 : idleAttempts + 1;
      await backOff(
        err,
        connection >= maxConnections ? repository.attempts : idleAttempts,
        repository.attempts,
        signal,
      );
    }
  }
  const found = hash.digest("hex");
  if (found !== wanted) {
    throw new PodvmError("invalid_argument", `${what}: the registry sent other bytes: ${algorithm}:${found}`);
  }
}

async function* blobFrom(
  repository: RepositoryClient,
  { digest, size }: Descriptor,
  start: number,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const what = `${repository.name}/blobs/${digest}`;
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (start > 0) headers.range = `bytes=${start}-${size - 1}`;
  const response = await repository.once(`blobs/${digest}`, headers, signal);
  let skip = 0;
  if (response.status === 200) skip = start;
  else if (response.status === 206 && start > 0) {
    const range = /^bytes ([0-9]+)-/.exec(response.headers["content-range"]?.toString() ?? "");
    if (Number(range?.[1] ?? -1) !== start) {
      response.body.destroy();
      throw new PodvmError("unavailable", `${what}: answered another range than from byte ${start}`);
    }
  } else throw await failureOf(response, what);
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      const passed = Math.min(skip, chunk.length);
      skip -= passed;
      if (passed < chunk.length) yield chunk.subarray(passed);
    }
  } catch (err) {
    throw transportError(err, response.url, signal);
  } finally {
    response.body.destroy();
  }
}
