/** Which backend serves a RuntimeClass handler. */
import { PodvmError } from "../host/errors.js";
import type { Vmm } from "./vmm.js";

export interface VmmRegistry {
  /** By RuntimeClass handler; not_found, listing the handlers, where there is none such. */
  forHandler(handler: string): Vmm;
  /** By the backend's own name, as a pod's document holds it. */
  byName(name: string): Vmm;
  /** Handlers as RuntimeClasses may name them, "" (the default) first. */
  handlers(): string[];
  /** Every one, the default first. */
  all(): readonly Vmm[];
  /** The backend for pods without a VM. */
  onHost(): Vmm;
}

/** The handler that asks for a pod without a VM. */
export const HOST_HANDLER = "host";

/**
 * The first backend is the default: "", "podvm" and every name that begins with "kata" (so that manifests written for Kata
 * Containers work unchanged) are it; "podvm-NAME" is the backend of that name, "host" the one without a VM.
 */
export function createVmmRegistry(vms: readonly [Vmm, ...Vmm[]], host?: Vmm): VmmRegistry {
  const backends = host ? [...vms, host] : vms;
  const handlers = ["", "podvm", ...vms.map(({ name }) => `podvm-${name}`), ...(host ? [HOST_HANDLER] : [])];
  return {
    handlers: () => handlers,
    all: () => backends,

    onHost() {
      if (host) return host;
      throw new PodvmError("failed_precondition", "this server has no backend for pods without a virtual machine");
    },

    byName(name) {
      const found = backends.find((backend) => backend.name === name);
      if (!found) {
        const names = backends.map((backend) => backend.name).join(", ");
        throw new PodvmError("not_found", `no VMM backend is called ${JSON.stringify(name)}; there are: ${names}`);
      }
      return found;
    },

    forHandler(handler) {
      if (handler === "" || handler === "podvm" || handler.startsWith("kata")) return vms[0];
      if (host && handler === HOST_HANDLER) return host;
      const found = vms.find(({ name }) => handler === `podvm-${name}`);
      if (!found) {
        const shown = handlers.map((h) => JSON.stringify(h)).join(", ");
        throw new PodvmError(
          "not_found",
          `no runtime handler ${JSON.stringify(handler.slice(0, 100))}; there are: ${shown}, "kata*"`,
        );
      }
      return found;
    },
  };
}
