import { randomBytes } from "node:crypto";

/** Id of a pod sandbox or container: 64 hexadecimal digits, as every CRI runtime has them (crictl shows the first 13). */
export function newId(): string {
  return randomBytes(32).toString("hex");
}
