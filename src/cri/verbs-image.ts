import { type AuthConfig, Image as CriImage } from "../gen/runtime/v1/api.js";
import type { Image, ImageStore, RegistryCredentials } from "../image/image.js";
import { parseReference } from "../image/reference.js";
import { bad, required, text } from "./checks.js";
import { inBatches } from "./filters.js";
import type { ImageHandlers } from "./handlers.js";

/** `writable`: what the pods' writable disks take of the file system that the images lie on. */
export function imageVerbs(
  images: ImageStore,
  writable: () => Promise<{ bytes: number; inodes: number }>,
): ImageHandlers {
  const select = (name: string | undefined): Image[] => {
    if (!name) return images.list();
    const found = images.find(name);
    return found ? [found] : [];
  };
  return {
    async listImages(request) {
      return { images: select(request.filter?.image?.image).map(renderImage) };
    },

    async *streamImages(request) {
      for (const batch of inBatches(select(request.filter?.image?.image))) {
        yield { images: batch.map(renderImage) };
      }
    },

    async imageStatus(request) {
      const name = required("image.image", request.image?.image ?? "", 512);
      // CRI: "If the image is not present, returns a response with ImageStatusResponse.Image set to nil"
      const image = images.find(name);
      const info: Record<string, string> = {};
      if (image && request.verbose) info.info = JSON.stringify({ config: image.config, platform: image.platform });
      return { image: image && renderImage(image), info };
    },

    async pullImage(request, call) {
      const reference = parseReference(required("image.image", request.image?.image ?? "", 512));
      const credentials = parseAuth(request.auth);
      const image = await images.pull(reference, { signal: call.signal, ...(credentials && { credentials }) });
      return { imageRef: image.id };
    },

    async removeImage(request) {
      await images.remove(required("image.image", request.image?.image ?? "", 512));
      return {};
    },

    async imageFsInfo() {
      const usage = await images.usage();
      const filesystem = {
        timestamp: BigInt(Date.now()) * 1_000_000n,
        fsId: { mountpoint: usage.mountpoint },
        usedBytes: { value: BigInt(usage.usedBytes) },
        inodesUsed: { value: BigInt(usage.inodesUsed) },
      };
      // Writable layers are on the same file system, in the pods' disks.
      const { bytes, inodes } = await writable();
      const disks = { ...filesystem, usedBytes: { value: BigInt(bytes) }, inodesUsed: { value: BigInt(inodes) } };
      return { imageFilesystems: [filesystem], containerFilesystems: [disks] };
    },
  };
}

/** `user` in an image: a number is CRI's uid, anything else its username. "1000:1000" and "www-data:staff" name a group that CRI has no place for. */
function renderImage(image: Image): CriImage {
  const user = image.config.user.split(":", 1)[0] ?? "";
  const isNumber = /^\d{1,10}$/.test(user);
  return CriImage.fromPartial({
    id: image.id,
    repoTags: image.repoTags,
    repoDigests: image.repoDigests,
    size: BigInt(image.size),
    uid: isNumber ? { value: BigInt(user) } : undefined,
    username: isNumber ? "" : user,
    pinned: image.pinned,
  });
}

/** CRI AuthConfig: `auth` is base64 of user:password, as in docker's configuration. */
function parseAuth(auth: AuthConfig | undefined): RegistryCredentials | undefined {
  if (!auth) return undefined;
  const credentials: RegistryCredentials = {};
  if (auth.auth) {
    const plain = Buffer.from(text("auth.auth", auth.auth), "base64").toString("utf8").replace(/\0+$/, "");
    const colon = plain.indexOf(":");
    if (colon < 0) throw bad("auth.auth", "base64 of user:password", "something else"); // never the value itself
    credentials.username = plain.slice(0, colon);
    credentials.password = plain.slice(colon + 1);
  } else if (auth.username) {
    credentials.username = text("auth.username", auth.username);
    credentials.password = text("auth.password", auth.password);
  }
  if (auth.identityToken) credentials.identityToken = text("auth.identity_token", auth.identityToken, 65_536);
  if (auth.registryToken) credentials.registryToken = text("auth.registry_token", auth.registryToken, 65_536);
  return Object.keys(credentials).length > 0 ? credentials : undefined;
}
