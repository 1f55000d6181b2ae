/**
 * `make critest`: critest v1.36 against a server of its own, with a table per group.
 *
 * usage: main.js [--tap] [--focus REGEX] [--skip REGEX] [--parallel N] [--only serial,parallel,websocket] [--out FOLDER]
 * --tap says "ok N - TITLE" for each spec (test/run.mjs reads it). Exit code: the number of failures, at most 100.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { left, snapshot } from "../support/node.js";
import { Podvm } from "../support/podvm.js";
import { projectRoot } from "../support/tools.js";
import { callTable, callTimes, since } from "./calls.js";
import { CritestImages, defaultImage } from "./images.js";
import { localCritest, type Run, runCritest } from "./run.js";
import { abandonedSegments, removeSegments } from "./sysvipc.js";
import { details, slowest, table, times } from "./table.js";
import { tapLines } from "./tap.js";

const { values: options } = parseArgs({
  options: {
    tap: { type: "boolean", default: false },
    focus: { type: "string", default: process.env.FOCUS ?? "" },
    skip: { type: "string", default: process.env.SKIP ?? "" },
    parallel: { type: "string", default: process.env.PARALLEL ?? "3" },
    only: { type: "string", default: process.env.ONLY ?? "serial,parallel,websocket" },
    out: { type: "string", default: join(projectRoot, "build/critest") },
  },
});
const parallel = Number(options.parallel);
if (!Number.isInteger(parallel) || parallel < 1 || parallel > 16) throw new Error("--parallel: wanted 1 to 16");
const wanted = options.only.split(",");
const say = (text: string) => console.log(options.tap ? text.replaceAll(/^/gm, "# ") : text);

const interrupted = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => interrupted.abort()); // critest ends, then everything is taken away as always
}

const chosen = { focus: options.focus, skip: options.skip };
const kinds = {
  serial: chosen,
  parallel: { ...chosen, parallel },
  websocket: {
    focus: "Streaming",
    skip: options.skip,
    args: ["-websocket-exec", "-websocket-attach", "-websocket-portforward"],
  },
};

const images = await CritestImages.served();
const podvm = new Podvm({
  mirror: images.url,
  // For the specs of the host's network, IPC namespace and mount propagation; hostPID is the guest's, which each pod has to itself.
  toml: { policy: 'host_namespaces = ["cri-test-namespace*"]\nhost_pid = "guest"\n' },
});
const runs: Run[] = [];
const segments = abandonedSegments();
let leaked = "";
try {
  await mkdir(options.out, { recursive: true });
  await podvm.prepare();
  await podvm.start();
  const critest = await localCritest(podvm.dir, images.digestImage);
  await podvm.crictl.run("pull", defaultImage);
  const { podId } = await podvm.podWith({ image: defaultImage });
  await podvm.removePod(podId);
  const before = await snapshot(podvm);
  for (const [name, kind] of Object.entries(kinds)) {
    if (!wanted.includes(name) || interrupted.signal.aborted) continue;
    say(`critest ${name}${name === "parallel" ? `, ${parallel} at a time` : ""} …`);
    const earlier = await calls();
    const shared = { name, podvm, critest, out: options.out, signal: interrupted.signal, deadlineMs: 3_600_000 };
    const run = await runCritest({ ...shared, ...kind });
    runs.push(run);
    const spent = since(earlier, await calls());
    say(
      `${table(run)}\n${details(run)}\n  slowest specs:\n${slowest(run)}\n  time in calls:\n${callTable(spent)}\n${times(run)}`,
    );
  }
  for (const { pods } of runs) for (const { id } of pods) podvm.crictl.podIds.add(id);
  const remains = left(before, await snapshot(podvm));
  leaked = Object.keys(remains).length > 0 ? JSON.stringify(remains, undefined, 2) : "";
  if (leaked) say(`left behind on the node:\n${leaked}`);
  await writeFile(join(options.out, "results.json"), JSON.stringify({ runs, leaked }, undefined, 1));
} finally {
  if (process.env.KEEP_LOG) await writeFile(join(options.out, "server.log"), podvm.logTail(1_000_000));
  await podvm.destroy();
  await images.close();
  await removeSegments(segments);
}

async function calls() {
  return callTimes((await podvm.cli(["metrics"])).stdout);
}

if (options.tap) for (const line of tapLines(runs, leaked)) console.log(line);
const failures = runs.flatMap((run) => run.specs.filter((spec) => spec.state === "failed")).length;
process.exitCode = Math.min(100, failures + runs.flatMap((run) => run.suiteFailures).length + (leaked ? 1 : 0));
