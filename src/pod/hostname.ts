import type { PodConfig } from "./types.js";

/** HOST_NAME_MAX of Linux is 64; DNS labels, and with them kubelet's host names, end at 63. */
const maxLength = 63;

/**
 * The pod's host name: the one it asks for, else its own name, cut as kubelet cuts it (names of pods may have 253 characters), never ending
 * in "-" or ".". What a host name cannot hold becomes "-".
 */
export function podHostname(config: Pick<PodConfig, "hostname" | "name">): string {
  return (
    config.hostname ||
    config.name
      .slice(0, maxLength)
      .replaceAll(/[^A-Za-z0-9.-]/g, "-")
      .replace(/[-.]+$/, "")
  );
}
