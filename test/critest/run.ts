/** One run of critest against a server, in a folder of its own. */
import { spawn } from "node:child_process";
import { createWriteStream, existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Podvm } from "../support/podvm.js";
import { tool } from "../support/tools.js";
import { hostPodSpecs, PodWatch, type SeenPod } from "./pod-watch.js";
import { type Report, readReport, type Spec } from "./report.js";
import { allowedSkips, skipReason } from "./skips.js";

/** What critest v1.36.0 has compiled in for the image that it pulls by digest. Nobody else can make an image with that digest. */
const publicDigest = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

export interface RunOptions {
  /** "serial", "parallel" …: the names of its files. */
  name: string;
  podvm: Podvm;
  /** The program as `localCritest` made it. */
  critest: string;
  /** Folder for log and reports. */
  out: string;
  /** Regular expressions over whole titles, "" for none. */
  focus: string;
  skip: string;
  /** Specs at a time; 1, the default: serially. */
  parallel?: number;
  /** Further arguments of critest. */
  args?: string[];
  /** Ends critest early. */
  signal: AbortSignal;
  deadlineMs: number;
}

export interface Run {
  name: string;
  specs: Spec[];
  suiteFailures: string[];
  /** Those that had a pod without a VM. Of specs that run side by side that cannot be told. */
  hostPodSpecs: Spec[];
  pods: SeenPod[];
  seconds: number;
}

/** critest with the digest that the image has here, by an edit of the same length. @returns its path, in a new folder of `folder` */
export async function localCritest(folder: string, digest: string): Promise<string> {
  const program = await readFile(tool("critest"));
  const wanted = Buffer.from(digest.replace("sha256:", ""));
  let edits = 0;
  for (let at = program.indexOf(publicDigest); at >= 0; at = program.indexOf(publicDigest, at + 1)) {
    wanted.copy(program, at);
    edits++;
  }
  if (edits === 0 || wanted.length !== publicDigest.length) {
    throw new Error(`${tool("critest")}: wanted the digest of its test image in it, found it ${edits} times`);
  }
  const path = join(folder, "critest");
  await writeFile(path, program);
  await chmod(path, 0o755);
  return path;
}

export async function runCritest(options: RunOptions): Promise<Run> {
  const began = Date.now();
  const watch = new PodWatch(options.podvm.socket);
  const report = startAndRead(options);
  await report.catch(() => {}); // rejects below; the watch ends first
  const pods = await watch.stop();
  const { specs, suiteFailures } = await report;
  if (options.signal.aborted) suiteFailures.push("interrupted");
  return {
    name: options.name,
    specs,
    suiteFailures,
    pods,
    hostPodSpecs: (options.parallel ?? 1) > 1 ? [] : hostPodSpecs(specs, pods),
    seconds: (Date.now() - began) / 1000,
  };
}

async function startAndRead(options: RunOptions): Promise<Report> {
  const { name, podvm, out, focus, skip, parallel = 1 } = options;
  // In the server's folder, so that what specs leave mounted or lying there can be told from everything else on the node.
  const temporary = join(podvm.dir, `tmp-${name}`);
  const bin = join(podvm.dir, "bin");
  for (const folder of [temporary, bin, out]) await mkdir(folder, { recursive: true });
  if (!existsSync(join(bin, "ginkgo"))) await symlink(tool("ginkgo"), join(bin, "ginkgo"));
  const log = join(out, `${name}.log`);
  const json = join(out, `${name}.json`);
  await rm(json, { force: true });
  const argv = [
    `-runtime-endpoint=unix://${podvm.socket}`,
    `-image-endpoint=unix://${podvm.socket}`,
    `-ginkgo.json-report=${json}`,
    `-ginkgo.junit-report=${join(out, `${name}.xml`)}`,
    "-ginkgo.no-color",
    "-ginkgo.v",
    ...(focus ? [`-ginkgo.focus=${focus}`] : []),
    ...(skip ? [`-ginkgo.skip=${skip}`] : []),
    ...(parallel > 1 ? [`-parallel=${parallel}`] : []),
    ...(options.args ?? []),
  ];
  const env = { ...process.env, TMPDIR: temporary, PATH: `${bin}:${process.env.PATH}` };
  const ended = await toFile({ ...options, argv, log, env });
  if (!existsSync(json)) {
    const tail = (await readFile(log, "utf8")).split("\n").slice(-20).join("\n");
    throw new Error(`critest ${ended} and left no report; the end of ${log}:\n${tail}`);
  }
  const { specs, suiteFailures } = readReport(json);
  const judged = judge(specs, Boolean(focus || skip));
  if (ended !== "ended with 0" && suiteFailures.length === 0 && judged.every((spec) => spec.state !== "failed")) {
    suiteFailures.push(`critest ${ended}: see ${log}`);
  }
  return { specs: judged, suiteFailures };
}

/**
 * Skipped specs get their reason; one that may not be skipped has failed. What focus or skip left out (`chosen`: there is one) has no message, and is
 * not there at all.
 */
function judge(specs: Spec[], chosen: boolean): Spec[] {
  const allowed = allowedSkips();
  return specs.flatMap((spec): Spec[] => {
    if (spec.state !== "skipped") return [spec];
    const reason = skipReason(spec, allowed);
    if (spec.message === "" && chosen) return [];
    if (reason !== undefined) return [{ ...spec, message: reason }];
    return [{ ...spec, state: "failed", message: `skipped itself, which skip.txt does not allow: ${spec.message}` }];
  });
}

interface Started {
  critest: string;
  argv: string[];
  log: string;
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  deadlineMs: number;
}

/** Runs critest with its output in the log. @returns how it ended, to be put behind "critest" */
async function toFile({ critest, argv, log, env, signal, deadlineMs }: Started): Promise<string> {
  const cwd = await mkdtemp(join(tmpdir(), "podvm-critest-")); // it looks for configuration where it runs
  const child = spawn(critest, argv, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  const file = createWriteStream(log);
  child.stdout.pipe(file, { end: false });
  child.stderr.pipe(file, { end: false });
  let why = "";
  const end = (reason: string) => {
    why ||= reason;
    child.kill("SIGINT"); // Ginkgo then cleans up behind the spec that runs, and reports
  };
  const timer = setTimeout(() => end(`was ended after ${deadlineMs / 1000} s`), deadlineMs);
  const onAbort = () => end("was interrupted");
  signal.addEventListener("abort", onAbort, { once: true });
  const ended = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, by) => resolve(`ended with ${code ?? by}`));
  });
  clearTimeout(timer);
  signal.removeEventListener("abort", onAbort);
  file.end();
  await rm(cwd, { recursive: true, force: true });
  return why || ended;
}
