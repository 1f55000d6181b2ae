/** The second byte stream into a guest: a virtio-serial controller with one port, hot-added to VMs that have a share. */
import { PodvmError } from "../../host/errors.js";
import type { Qmp } from "./qmp.js";

/** On the command line of every VM: a listening socket costs nothing, and could not be handed over later. */
export const SHARE_CHARDEV = "share";
const CONTROLLER = "serial1";
const PORT = "share0";
/** What the agent finds it by. */
const PORT_NAME = "podvm.share";

/** Idempotent. What is there is asked of QEMU and not remembered: another server may have added it, or died between the two steps. */
export async function addSharePort(qmp: Qmp, deadlineMs: number): Promise<void> {
  const present = names(await qmp.execute("qom-list", { path: "/machine/peripheral" }, deadlineMs));
  if (!present.has(CONTROLLER)) {
    const controller = { driver: "virtio-serial-pci", id: CONTROLLER, "disable-legacy": "on", max_ports: 2 };
    await qmp.execute("device_add", controller, deadlineMs);
  }
  if (!present.has(PORT)) {
    const port = { driver: "virtserialport", id: PORT, bus: `${CONTROLLER}.0`, nr: 1 };
    await qmp.execute("device_add", { ...port, chardev: SHARE_CHARDEV, name: PORT_NAME }, deadlineMs);
  }
}

function names(list: unknown): Set<unknown> {
  if (!Array.isArray(list)) throw new PodvmError("unavailable", "QMP: the VMM answered no list");
  return new Set(list.map((item) => (item as { name?: unknown } | null)?.name));
}
