/** Image volumes: the image's device, as a container's root has it. */
import { PodvmError } from "../host/errors.js";
import type { ImageStore } from "../image/image.js";
import type { VolumeChoice } from "./types.js";

export function imageVolume(
  { reference, subPath }: { reference: string; subPath: string },
  images: Pick<ImageStore, "find">,
): VolumeChoice {
  const image = images.find(reference);
  if (!image) throw new PodvmError("not_found", `image ${reference} of a mount is not here: pull it first`);
  return {
    key: `image:${image.id}`,
    spec: { kind: "image", imageId: image.id, serial: imageSerial(image.id) },
    subPath,
  };
}

/** Serial number of an image's device in every VM: virtio-blk's has 20 bytes. */
export function imageSerial(imageId: string): string {
  return `i${imageId.replace(/^sha256:/, "").slice(0, 19)}`;
}
