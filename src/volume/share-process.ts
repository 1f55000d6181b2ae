/** podvm-share as a process: where its files lie, how it is started, and how volumes are attached to it (docs/volumes.md). */
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import { readFileIfThere } from "../host/files.js";
import { isAlive, type ProcessRef } from "../host/process.js";
import { run } from "../host/run.js";
import type { VmSpec } from "../vmm/vmm.js";
import type { ShareEntry } from "./share.js";

export const sharePidFile = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/share.pid`;
export const shareControl = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/share.ctl`;
export const shareRoot = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/share-root`;

const Ref = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  starttime: v.pipe(v.number(), v.minValue(0)),
});
const Refusal = v.object({ error: v.object({ step: v.string(), errno: v.number(), message: v.string() }) });

export interface ShareStart {
  /** Unix socket on which the VMM listens. */
  socket: string;
  cgroups: string[];
  entries: readonly ShareEntry[];
}

/** Rejects with not_found where an entry's path is not there; then no process is left. */
export async function startShare(program: string, spec: VmSpec, start: ShareStart, deadlineMs: number): Promise<void> {
  const document = {
    version: 1,
    socket: start.socket,
    control: shareControl(spec),
    pidFile: sharePidFile(spec),
    mountPoint: shareRoot(spec),
    cgroups: start.cgroups,
    entries: start.entries.map(entryDocument),
  };
  await ask(program, "run", document, deadlineMs);
}

/** Idempotent by name. */
export async function attachEntry(program: string, spec: VmSpec, entry: ShareEntry, deadlineMs: number): Promise<void> {
  await ask(program, "attach", { version: 1, pidFile: sharePidFile(spec), entry: entryDocument(entry) }, deadlineMs);
}

/** OK where there is none of that name. */
export async function detachEntry(program: string, spec: VmSpec, name: string, deadlineMs: number): Promise<void> {
  await ask(program, "detach", { version: 1, pidFile: sharePidFile(spec), name }, deadlineMs);
}

/** The share that runs; undefined where none does. */
export async function runningShare(spec: VmSpec): Promise<ProcessRef | undefined> {
  const text = await readFileIfThere(sharePidFile(spec));
  if (text === undefined) return undefined;
  const parsed = v.safeParse(Ref, parseJson(text));
  return parsed.success && (await isAlive(parsed.output)) ? parsed.output : undefined;
}

function entryDocument(entry: ShareEntry) {
  const { name, hostPath, readonly, recursiveReadonly, propagation } = entry;
  return { name, path: hostPath, readonly, recursiveReadonly, propagation };
}

async function ask(program: string, verb: string, document: unknown, deadlineMs: number): Promise<void> {
  const input = JSON.stringify(document);
  const { code, stdout } = await run([program, verb], { deadlineMs, input, env: {}, okCodes: [0, 1] });
  if (code === 0) return;
  const parsed = v.safeParse(Refusal, parseJson(stdout));
  if (!parsed.success) throw new PodvmError("internal", `${program} ${verb}: no answer: ${stdout.slice(0, 500)}`);
  const { step, errno, message } = parsed.output.error;
  const kind = step === "document" ? "invalid_argument" : errno === ENOENT ? "not_found" : "internal";
  throw new PodvmError(kind, `cannot ${verb === "run" ? "start" : verb} the pod's share: ${step}: ${message}`);
}

const ENOENT = 2;

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
