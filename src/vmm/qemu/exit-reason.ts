/** Data of QEMU's SHUTDOWN event. */
export interface Shutdown {
  guest: boolean;
  /** ShutdownCause: "guest-shutdown", "guest-reset", "guest-panic", "host-signal", "host-qmp-quit" … */
  reason: string;
}

/**
 * Why the VMM is gone, in words for a pod's status.
 * @param stderr what QEMU wrote; it may hold whatever a guest made QEMU say, so only the last line is shown, bounded
 */
export function exitReason(shutdown: Shutdown | undefined, stderr: string): string {
  switch (shutdown?.reason) {
    case "guest-shutdown":
      return "guest shutdown";
    case "guest-reset": // panic=-1 makes a panic a reset, and -no-reboot a reset the end; the agent never reboots
    case "guest-panic":
      return "guest panic";
    case "host-signal":
    case "host-qmp-quit":
      return "killed";
    default: {
      const last = stderr
        .split("\n")
        .at(-1)
        ?.replace(/[^\x20-\x7e]/g, "?")
        .slice(0, 200);
      return last ? `VMM died: ${last}` : "VMM died";
    }
  }
}
