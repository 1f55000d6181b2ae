import { PodvmError } from "../../host/errors.js";
import type { ImageRunConfig } from "../image.js";
import { digestProblem } from "../reference.js";

export interface ImageConfig {
  run: ImageRunConfig;
  /** os/architecture */
  platform: string;
  /** Digests of the uncompressed layers, from the bottom. */
  diffIds: string[];
}

const maxText = 64 * 1024;
const maxItems = 10_000;

/** The image configuration (OCI config.md; docker's has the same fields). Throws invalid_argument for broken ones, failed_precondition for another platform. */
export function parseImageConfig(bytes: Buffer, what: string): ImageConfig {
  const bad = (why: string) => new PodvmError("invalid_argument", `${what}: image configuration: ${why}`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw new PodvmError("invalid_argument", `${what}: image configuration is not JSON`, { cause });
  }
  const top = record(parsed, "it", bad);
  const os = text(top.os, "os", bad) || "linux";
  const architecture = text(top.architecture, "architecture", bad);
  if (os !== "linux" || architecture !== "amd64") {
    throw new PodvmError(
      "failed_precondition",
      `${what}: the image is for ${os}/${architecture || "?"}, wanted linux/amd64`,
    );
  }
  const rootfs = record(top.rootfs, "rootfs", bad);
  if (rootfs.type !== "layers") throw bad(`rootfs type ${JSON.stringify(rootfs.type)}, wanted "layers"`);
  const diffIds = list(rootfs.diff_ids, "diff_ids", bad);
  for (const diffId of diffIds) {
    const problem = digestProblem(diffId);
    if (problem) throw bad(problem);
  }
  const config = record(top.config ?? {}, "config", bad);
  return {
    platform: `${os}/${architecture}`,
    diffIds,
    run: {
      user: text(config.User, "User", bad),
      env: list(config.Env, "Env", bad),
      entrypoint: list(config.Entrypoint, "Entrypoint", bad),
      cmd: list(config.Cmd, "Cmd", bad),
      workingDir: text(config.WorkingDir, "WorkingDir", bad),
      stopSignal: text(config.StopSignal, "StopSignal", bad),
      labels: labels(config.Labels, bad),
      volumes: Object.keys(record(config.Volumes ?? {}, "Volumes", bad)),
      exposedPorts: Object.keys(record(config.ExposedPorts ?? {}, "ExposedPorts", bad)),
    },
  };
}

type Bad = (why: string) => Error;

function record(value: unknown, what: string, bad: Bad): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad(`${what} is no object`);
  if (Object.keys(value).length > maxItems) throw bad(`${what} has more than ${maxItems} entries`);
  return value as Record<string, unknown>;
}

function text(value: unknown, what: string, bad: Bad): string {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string" || value.length > maxText)
    throw bad(`${what} is no text of at most ${maxText} characters`);
  if (value.includes("\0")) throw bad(`${what} holds NUL`);
  return value;
}

function list(value: unknown, what: string, bad: Bad): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || value.length > maxItems) throw bad(`${what} is no list of at most ${maxItems} texts`);
  return value.map((item, i) => {
    if (typeof item !== "string") throw bad(`${what}[${i}] is no text`);
    return text(item, `${what}[${i}]`, bad);
  });
}

function labels(value: unknown, bad: Bad): Record<string, string> {
  const entries = Object.entries(record(value ?? {}, "Labels", bad));
  return Object.fromEntries(entries.map(([key, item]) => [key, text(item, `label ${key.slice(0, 60)}`, bad)]));
}
