/**
 * Many clients at once, whose calls for one pod overlap in any order, some of whom give up. Every answer is a success or a refusal that says what is
 * in the way, never an internal error; in the end everything can be removed, and the node is as before. In every other round the server is killed
 * amid all that.
 *
 * PODVM_STORM_ROUNDS, PODVM_STORM_SEED: more rounds, or those of an earlier run.
 */
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { type Clients, call, connect } from "../../src/cli/client.js";
import { ContainerConfig, PodSandboxConfig } from "../../src/gen/runtime/v1/api.js";
import { PodvmError } from "../../src/host/errors.js";
import { busybox, random as randomName } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { seeded } from "../support/seeded.js";
import { suite } from "../support/suite.js";

const { test, podvm } = suite();

const rounds = Number(process.env.PODVM_STORM_ROUNDS ?? 2);
const seed = Number(process.env.PODVM_STORM_SEED ?? randomInt(1, 2 ** 31));
const LONG_MS = 180_000;

test(`overlapping calls, ${rounds} rounds (PODVM_STORM_SEED=${seed})`, async (t) => {
  t.timeout(120_000 + rounds * 240_000);
  await podvm().crictl.run("pull", busybox);
  await podvm().removePod((await podvm().podWith()).podId); // makes what stays: bridge, chains, folders
  const before = await snapshot(podvm());
  const random = seeded(seed);
  for (let round = 0; round < rounds; round++) {
    const kill = round % 2 === 1;
    const clients = connect(podvm().socket);
    t.teardown(() => clients.close());
    // After a server's death a client waits a while before it dials again.
    await promisify(clients.runtime.waitForReady.bind(clients.runtime))(Date.now() + 60_000);
    const weather = storm(clients, random, kill);
    if (kill) {
      await sleep(3000 + random(14_000));
      await podvm().kill();
    }
    const internal = await weather;
    t.deepEqual(internal, [], `round ${round}: internal errors`);
    if (!podvm().running) await podvm().start();
    for (const { id } of await podvm().crictl.pods()) {
      podvm().crictl.podIds.add(id);
      await podvm().removePod(id);
    }
    t.deepEqual(await podvm().crictl.containers(), []);
    t.deepEqual(left(before, await snapshot(podvm())), {}, `round ${round}`);
  }
  const errors = readFileSync(podvm().serverLog, "utf8")
    .split("\n")
    .filter((line) => / ERROR /.test(line));
  t.deepEqual(errors, []);
});

/** One pod's storm; answers the internal errors. */
async function storm(clients: Clients, random: (below: number) => number, kill: boolean): Promise<string[]> {
  const { runtime } = clients;
  const uid = randomName(8);
  const config = PodSandboxConfig.fromPartial({
    metadata: { name: `storm-${uid}`, namespace: "default", uid, attempt: 0 },
    hostname: "storm",
    logDirectory: `${podvm().logDir}/${uid}`,
    linux: { cgroupParent: podvm().cgroupParent },
  });
  const internal: string[] = [];
  /** The answer, or undefined where the call was refused. */
  const attempt = async <T>(what: string, work: Promise<T>): Promise<T | undefined> => {
    try {
      return await work;
    } catch (err) {
      if (!(err instanceof PodvmError) || err.code === "internal") internal.push(`${what}: ${String(err)}`);
      return undefined;
    }
  };
  const run = (ms: number) =>
    attempt("RunPodSandbox", call(clients, runtime, "runPodSandbox", { config, runtimeHandler: "" }, ms));
  const late = sleep(random(3000)).then(() => run(random(1000)));
  const answers = await Promise.all([run(random(2000)), run(random(4000)), late]);
  const podSandboxId = (answers.find((answer) => answer) ?? (await run(LONG_MS)))?.podSandboxId;
  if (podSandboxId === undefined) return kill ? internal : [...internal, "no sandbox after four requests"];
  podvm().crictl.podIds.add(podSandboxId);

  const ids: string[] = [];
  const some = () => ids[random(ids.length)] ?? "0123456789abcdef";
  const create = async () => {
    const container = ContainerConfig.fromPartial({
      metadata: { name: `c${random(3)}`, attempt: random(2) },
      image: { image: busybox },
      command: ["sh", "-c", "echo here; exec sleep 3600"],
      logPath: `c${random(100)}.log`,
    });
    const request = { podSandboxId, config: container, sandboxConfig: config };
    const made = await attempt(
      "CreateContainer",
      call(clients, runtime, "createContainer", request, random(3) === 0 ? 500 : LONG_MS),
    );
    if (made) ids.push(made.containerId);
  };
  const one: (() => Promise<unknown>)[] = [
    create,
    create,
    create,
    () => attempt("StartContainer", call(clients, runtime, "startContainer", { containerId: some() }, LONG_MS)),
    () => attempt("StartContainer", call(clients, runtime, "startContainer", { containerId: some() }, LONG_MS)),
    () =>
      attempt("StopContainer", call(clients, runtime, "stopContainer", { containerId: some(), timeout: 0n }, LONG_MS)),
    () => attempt("RemoveContainer", call(clients, runtime, "removeContainer", { containerId: some() }, LONG_MS)),
    () =>
      attempt(
        "ExecSync",
        call(clients, runtime, "execSync", { containerId: some(), cmd: ["true"], timeout: 5n }, LONG_MS),
      ),
    () => attempt("ListContainerStats", call(clients, runtime, "listContainerStats", { filter: undefined }, LONG_MS)),
    () =>
      attempt("PodSandboxStatus", call(clients, runtime, "podSandboxStatus", { podSandboxId, verbose: true }, LONG_MS)),
  ];
  const end = [
    () => attempt("StopPodSandbox", call(clients, runtime, "stopPodSandbox", { podSandboxId }, LONG_MS)),
    () => attempt("RemovePodSandbox", call(clients, runtime, "removePodSandbox", { podSandboxId }, LONG_MS)),
  ];
  const work = Array.from({ length: 24 }, (_, i) => {
    // The end comes while the rest is still under way.
    const choices = i < 20 ? one : [...one, ...end, ...end, ...end];
    const delay = random(i < 20 ? 6000 : 8000);
    const what = choices[random(choices.length)] ?? create;
    return sleep(delay).then(what);
  });
  await Promise.all([create(), create(), ...work]);
  return internal;
}
