import { open } from "node:fs/promises";
import * as v from "valibot";
import type { Seccomp } from "../gen/oci/v1/spec.js";
import { errno, messageOf, PodvmError } from "../host/errors.js";
import { capabilitiesOf } from "./capabilities.js";
import { defaultProfile } from "./seccomp-default.js";
import type { SecurityConfig } from "./types.js";

const MAX_PROFILE_BYTES = 1 << 20;

const action = v.picklist([
  "SCMP_ACT_KILL",
  "SCMP_ACT_KILL_PROCESS",
  "SCMP_ACT_KILL_THREAD",
  "SCMP_ACT_TRAP",
  "SCMP_ACT_ERRNO",
  "SCMP_ACT_TRACE",
  "SCMP_ACT_ALLOW",
  "SCMP_ACT_LOG",
]);
const word = v.pipe(v.string(), v.maxLength(64));
const unsigned = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const errnoRet = v.optional(v.pipe(unsigned, v.maxValue(4095)));

/** linux.seccomp of the OCI runtime specification. Notify, which needs a listener on the host, is not in the list of actions. */
const profileSchema = v.object({
  defaultAction: action,
  defaultErrnoRet: errnoRet,
  architectures: v.optional(v.pipe(v.array(word), v.maxLength(64)), []),
  flags: v.optional(v.pipe(v.array(word), v.maxLength(16)), []),
  syscalls: v.optional(
    v.pipe(
      v.array(
        v.object({
          names: v.pipe(v.array(word), v.minLength(1), v.maxLength(1024)),
          action,
          errnoRet,
          args: v.optional(
            v.pipe(
              v.array(
                v.object({
                  index: v.pipe(unsigned, v.maxValue(5)),
                  value: unsigned,
                  valueTwo: v.optional(unsigned, 0),
                  op: word,
                }),
              ),
              v.maxLength(6),
            ),
            [],
          ),
        }),
      ),
      v.maxLength(2048),
    ),
    [],
  ),
});

/** What a container gets whose client said nothing of seccomp; CRI and critest want it unconfined. */
export type UnsetSeccomp = "unconfined" | "runtime/default";

/** The profile of a container: none where it is privileged or unconfined, the default one, or one from a file of this node. */
export async function seccompOf(security: SecurityConfig, unset: UnsetSeccomp): Promise<Seccomp | undefined> {
  if (security.privileged) return undefined;
  const { seccomp } = security;
  if (seccomp.type === "localhost") return readProfile(seccomp.path);
  const confined = seccomp.type === "default" || (seccomp.type === "unset" && unset === "runtime/default");
  return confined ? defaultProfile(capabilitiesOf(security).granted) : undefined;
}

/** Kubernetes' Localhost profile: a file that the node's administrator has put there; its path comes from kubelet. */
async function readProfile(path: string): Promise<Seccomp> {
  const text = await readBounded(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new PodvmError("invalid_argument", `seccomp profile ${path}: wanted JSON, found ${messageOf(cause)}`, {
      cause,
    });
  }
  const parsed = v.safeParse(profileSchema, value);
  if (!parsed.success) {
    const issue = parsed.issues[0];
    throw new PodvmError(
      "invalid_argument",
      `seccomp profile ${path}: ${v.getDotPath(issue) ?? "the whole"}: ${issue.message}`,
    );
  }
  const { defaultAction, defaultErrnoRet, architectures, flags, syscalls } = parsed.output;
  return {
    defaultAction,
    defaultErrnoRet,
    architectures,
    flags,
    syscalls: syscalls.map((rule) => ({
      names: rule.names,
      action: rule.action,
      errnoRet: rule.errnoRet,
      args: rule.args.map(({ index, op, value: one, valueTwo }) => ({
        index,
        op,
        value: BigInt(one),
        valueTwo: BigInt(valueTwo),
      })),
    })),
  };
}

async function readBounded(path: string): Promise<string> {
  try {
    const file = await open(path, "r");
    try {
      const stat = await file.stat();
      if (!stat.isFile()) throw new PodvmError("invalid_argument", `seccomp profile ${path}: wanted a regular file`);
      if (stat.size > MAX_PROFILE_BYTES) {
        throw new PodvmError(
          "invalid_argument",
          `seccomp profile ${path}: wanted at most ${MAX_PROFILE_BYTES} bytes, found ${stat.size}`,
        );
      }
      return await file.readFile("utf8");
    } finally {
      await file.close();
    }
  } catch (err) {
    if (errno(err) !== "ENOENT") throw err;
    throw new PodvmError("not_found", `seccomp profile ${path}: there is no such file on this node`, { cause: err });
  }
}
