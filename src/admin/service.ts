/** Handlers of podvm.admin.v1.Admin. They run inside the RPC wrapper, as the CRI verbs do: it logs, measures and maps errors. */
import type { PullImageRequest, PullImageResponse } from "../gen/admin/v1/admin.js";
import { PodvmError } from "../host/errors.js";
import type { ImageStore, PullProgress } from "../image/image.js";
import type { ImageReference } from "../image/reference.js";
import { ProgressQueue } from "./progress.js";

export interface AdminDependencies {
  images: Pick<ImageStore, "pull">;
  /** Rejects what is no reference with invalid_argument. */
  parseReference: (name: string) => ImageReference;
  metrics: { render(): string };
}

export interface AdminContext {
  signal: AbortSignal;
}

export interface AdminHandlers {
  pullImage(request: PullImageRequest, ctx: AdminContext): AsyncIterable<PullImageResponse>;
  getMetrics(request: object, ctx: AdminContext): Promise<{ text: string }>;
}

const maxReference = 4096;

export function createAdminHandlers(deps: AdminDependencies): AdminHandlers {
  return {
    pullImage: (request, ctx) => pullImage(deps, request, ctx.signal),
    getMetrics: async () => ({ text: deps.metrics.render() }),
  };
}

async function* pullImage(
  deps: AdminDependencies,
  request: PullImageRequest,
  signal: AbortSignal,
): AsyncGenerator<PullImageResponse> {
  if (request.image.length > maxReference) {
    throw new PodvmError(
      "invalid_argument",
      `image: wanted at most ${maxReference} characters, found ${request.image.length}`,
    );
  }
  const reference = deps.parseReference(request.image);
  // The wrapper returns this iterator when the client goes; the pull must then end too.
  const gone = new AbortController();
  const queue = new ProgressQueue();
  const pull = deps.images.pull(reference, {
    signal: AbortSignal.any([signal, gone.signal]),
    onProgress: (progress) => queue.put(progress),
  });
  pull.then(
    () => queue.end(),
    () => queue.end(),
  );
  try {
    for await (const progress of queue) yield { progress: toMessage(progress) };
    const image = await pull;
    yield { done: { imageId: image.id, repoDigests: image.repoDigests } };
  } finally {
    gone.abort(new PodvmError("cancelled", "the client went away"));
  }
}

function toMessage(progress: PullProgress) {
  const { item, state, doneBytes, totalBytes } = progress;
  return { item, state, doneBytes: BigInt(Math.max(0, doneBytes)), totalBytes: BigInt(Math.max(0, totalBytes)) };
}
