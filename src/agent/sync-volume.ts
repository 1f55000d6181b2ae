/** SyncVolume: one generation of a volume as a stream of requests. */
import type { ClientWritableStream, ServiceError } from "@grpc/grpc-js";
import { type DeepPartial, SyncVolumeRequest, type SyncVolumeResponse } from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";
import { fromGrpc } from "./errors.js";

const PIECE = 64 * 1024;

export interface GenerationEntry {
  /** Relative; "" is the volume itself. */
  path: string;
  kind: { type: "directory" } | { type: "file"; data: Buffer } | { type: "symlink"; target: string };
  mode: number;
  uid: number;
  gid: number;
}

/** Resolves when the guest has switched to it. */
export function sendGeneration(
  open: (
    callback: (err: ServiceError | null, response: SyncVolumeResponse) => void,
  ) => ClientWritableStream<SyncVolumeRequest>,
  volumeId: string,
  entries: readonly GenerationEntry[],
): Promise<void> {
  return new Promise((resolve, reject) => {
    let over = false;
    const stream = open((err) => {
      over = true;
      stream.emit("drain"); // lets a blocked writer find the end
      if (err) reject(fromGrpc(err, `SyncVolume of ${volumeId}`));
      else resolve();
    });
    stream.on("error", () => {}); // the callback tells it
    const send = async (request: DeepPartial<SyncVolumeRequest>) => {
      if (over) throw new PodvmError("cancelled", "the call has ended");
      if (stream.write(SyncVolumeRequest.fromPartial(request))) return;
      await new Promise<void>((drained) => stream.once("drain", drained));
    };
    sendAll(volumeId, entries, send).then(
      () => stream.end(),
      () => {
        if (!over) stream.cancel();
      },
    );
  });
}

async function sendAll(
  volumeId: string,
  entries: readonly GenerationEntry[],
  send: (request: DeepPartial<SyncVolumeRequest>) => Promise<void>,
): Promise<void> {
  await send({ volumeId });
  for (const { path, kind, mode, uid, gid } of entries) {
    const entry = { path, mode, uid, gid };
    if (kind.type === "directory") await send({ entry: { ...entry, directory: true } });
    else if (kind.type === "symlink") await send({ entry: { ...entry, symlink: kind.target } });
    else {
      await send({ entry: { ...entry, file: true } });
      for (let at = 0; at < kind.data.length; at += PIECE) await send({ data: kind.data.subarray(at, at + PIECE) });
    }
  }
  await send({ commit: true });
}
