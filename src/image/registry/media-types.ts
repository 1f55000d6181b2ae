import { PodvmError } from "../../host/errors.js";

/** OCI image specification 1.1 (descriptor.md, media-types.md) and docker's distribution manifest v2.2. */
export interface Descriptor {
  mediaType: string;
  /** Checked: sha256:<64 hex> or sha512:<128 hex>. */
  digest: string;
  /** Bytes. */
  size: number;
}

const ociManifest = "application/vnd.oci.image.manifest.v1+json";
const ociIndex = "application/vnd.oci.image.index.v1+json";
const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
const dockerList = "application/vnd.docker.distribution.manifest.list.v2+json";

export const acceptManifests = [ociManifest, ociIndex, dockerManifest, dockerList].join(", ");

export const isManifest = (type: string) => type === ociManifest || type === dockerManifest;
export const isIndex = (type: string) => type === ociIndex || type === dockerList;
export const isSchema1 = (type: string) => /^application\/vnd\.docker\.distribution\.manifest\.v1\+/.test(type);

const configTypes = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

const layerTypes = [
  "application/vnd.oci.image.layer.v1.tar",
  "application/vnd.oci.image.layer.v1.tar+gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd",
  "application/vnd.docker.image.rootfs.diff.tar",
  "application/vnd.docker.image.rootfs.diff.tar.gzip",
  "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/** Throws failed_precondition for what is no container image: charts, signatures, WebAssembly … */
export function checkConfigType(type: string): void {
  if (configTypes.includes(type)) return;
  throw new PodvmError(
    "failed_precondition",
    `not a container image: its configuration is of type ${JSON.stringify(type)}`,
  );
}

/** Throws failed_precondition for layers that cannot be had here: on other servers by URL, encrypted, of unknown form. */
export function checkLayerType(type: string): void {
  if (layerTypes.includes(type)) return;
  const why = /foreign|nondistributable/.test(type)
    ? "it is a foreign layer, which its registry does not hold"
    : /encrypted/.test(type)
      ? "it is encrypted"
      : "its type is unknown";
  throw new PodvmError("failed_precondition", `layer of type ${JSON.stringify(type)} is not supported: ${why}`);
}
