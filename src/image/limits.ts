/** What one pull may take. Everything that a registry or image states is checked against these. */
export interface ImageLimits {
  /** Bytes of an index, manifest or image configuration. */
  maxDocumentBytes: number;
  /** Bytes that one layer may unpack to, and what all layers of an image may together. */
  maxUnpackedBytes: number;
  /** Entries of one layer, and of all layers of an image together. */
  maxEntries: number;
  /** Bytes of names, links and extended attributes of one layer. */
  maxMetadataBytes: number;
  /** Layers fetched at once by one pull, and by all. */
  layersPerPull: number;
  layersAtOnce: number;
  /** Tries per request; for a layer, tries without any progress. */
  attempts: number;
  connectMs: number;
  /** Without a byte for so long, a connection is given up. */
  stallMs: number;
  /** A whole pull. */
  pullMs: number;
  /** Bytes that a pull leaves free on the disk. */
  keepFreeBytes: number;
}

export const defaultImageLimits: ImageLimits = {
  maxDocumentBytes: 4 << 20,
  maxUnpackedBytes: 32 * 2 ** 30,
  maxEntries: 1_000_000,
  maxMetadataBytes: 128 << 20,
  layersPerPull: 3,
  layersAtOnce: 6,
  attempts: 5,
  connectMs: 10_000,
  stallMs: 30_000,
  pullMs: 3_600_000,
  keepFreeBytes: 64 << 20,
};
