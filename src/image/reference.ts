// Placeholder for the type only, until the image room's own work lands.
export interface ImageReference {
  /** registry host[:port] */
  registry: string;
  /** library/busybox */
  repository: string;
  tag?: string;
  /** sha256:… */
  digest?: string;
}
