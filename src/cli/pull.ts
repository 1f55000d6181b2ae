/** A pull through the admin service, with its progress shown. */

import { type ServiceError, status } from "@grpc/grpc-js";
import type { PullImageResponse, PullProgress } from "../gen/admin/v1/admin.js";
import { PodvmError } from "../host/errors.js";
import { type Clients, fromService } from "./client.js";
import { printable, size } from "./output.js";

export interface PullResult {
  imageId: string;
  repoDigests: string[];
}

/** Pulls; `signal` cancels. Progress goes to `show`. Rejects with the server's error. */
export async function pull(
  clients: Clients,
  image: string,
  show: (progress: PullProgress) => void,
  signal?: AbortSignal,
): Promise<PullResult> {
  const stream = clients.admin.pullImage({ image });
  const cancel = () => stream.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  if (signal?.aborted) cancel();
  let result: PullResult | undefined;
  try {
    for await (const message of stream as AsyncIterable<PullImageResponse>) {
      if (message.progress) show(message.progress);
      if (message.done) result = message.done;
    }
  } catch (err) {
    const cancelled = (err as ServiceError).code === status.CANCELLED && signal?.aborted;
    throw cancelled
      ? new PodvmError("cancelled", `pull of ${image}: cancelled`)
      : fromService(err as ServiceError, clients.socket);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
  if (!result) throw new PodvmError("internal", `pull of ${image}: the server ended without a result`);
  return result;
}

/** Shows progress on standard error: one line that changes on a terminal, else a line per finished layer. */
export class ProgressLine {
  readonly #items = new Map<string, PullProgress>();
  readonly #terminal = process.stderr.isTTY === true;
  #drawn = false;

  constructor(private readonly title: string) {}

  readonly show = (progress: PullProgress): void => {
    const before = this.#items.get(progress.item)?.state;
    this.#items.set(progress.item, progress);
    if (this.#terminal) this.#draw();
    else if (
      isLayer(progress) &&
      progress.state !== before &&
      (progress.state === "done" || progress.state === "exists")
    ) {
      const how = progress.state === "exists" ? "is here already" : size(Number(progress.totalBytes));
      process.stderr.write(`${printable(progress.item).slice(0, 19)} ${how}\n`);
    }
  };

  /** Removes the changing line. */
  end(): void {
    if (this.#drawn) process.stderr.write("\r\x1b[K");
    this.#drawn = false;
  }

  #draw(): void {
    const width = process.stderr.columns || 80;
    process.stderr.write(
      `\r\x1b[K${`${printable(this.title)}: ${summary([...this.#items.values()])}`.slice(0, width - 1)}`,
    );
    this.#drawn = true;
  }
}

/** Layers are named by digest; the rest are "manifest" and "index". */
const isLayer = (progress: PullProgress) => progress.item.includes(":");

/** "2/5 layers, 12.3 MiB of 40.1 MiB, unpacking". */
export function summary(items: PullProgress[]): string {
  const layers = items.filter(isLayer);
  if (layers.length === 0) return "resolving";
  const finished = layers.filter((layer) => layer.state === "done" || layer.state === "exists");
  const loading = layers.filter((layer) => layer.state !== "exists");
  const sum = (pick: (layer: PullProgress) => bigint) =>
    Number(loading.reduce((total, layer) => total + pick(layer), 0n));
  const parts = [`${finished.length}/${layers.length} layers`];
  const total = sum((layer) => layer.totalBytes);
  if (total > 0)
    parts.push(
      `${size(
        Math.min(
          total,
          sum((layer) => layer.doneBytes),
        ),
      )} of ${size(total)}`,
    );
  const downloads = layers.some((layer) => layer.state === "downloading" || layer.state === "waiting");
  if (!downloads && finished.length < layers.length) parts.push("unpacking");
  return parts.join(", ");
}
