import { PodvmError } from "../host/errors.js";

/**
 * Handler of an RPC that PodVM does not have: answers UNIMPLEMENTED with its name. Fits unary and streaming methods, as it never
 * returns.
 */
export function unimplemented(method: string): () => never {
  return () => {
    throw new PodvmError("unimplemented", `${method} is not implemented by PodVM`);
  };
}
