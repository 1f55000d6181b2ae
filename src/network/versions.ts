/** Versions of the CNI specification that are spoken here, oldest first. */
export const cniVersions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
export type CniVersion = (typeof cniVersions)[number];

export function isCniVersion(text: unknown): text is CniVersion {
  return (cniVersions as readonly unknown[]).includes(text);
}

export function atLeast(version: CniVersion, wanted: CniVersion): boolean {
  return cniVersions.indexOf(version) >= cniVersions.indexOf(wanted);
}

export const supportedVersions = cniVersions.join(", ");
