/**
 * The server, or a pod's VMM, is killed with -9 at a random moment of a pod's life. Whatever the moment: the server comes back, what a client was
 * told stays true, nothing is half visible, everything can be stopped and removed, and the node is as before.
 *
 * PODVM_FAULT_ROUNDS, PODVM_FAULT_SEED: more rounds, or those of an earlier run.
 */
import { randomInt } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ExecutionContext } from "ava";
import { busybox, type ContainerConfig, containerConfig, type PodConfig } from "../support/manifests.js";
import { left, processes, snapshot } from "../support/node.js";
import { seeded } from "../support/seeded.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

const rounds = Number(process.env.PODVM_FAULT_ROUNDS ?? 5);
const seed = Number(process.env.PODVM_FAULT_SEED ?? randomInt(1, 2 ** 31));

const VERBS = ["pull", "runp", "create", "start", "stop", "stopp", "rmp"] as const;
type Verb = (typeof VERBS)[number];
type Victim = "server" | "vmm" | "both";

/** A plan is made of these alone, so a seed repeats it. */
interface Plan {
  verb: Verb;
  victim: Victim;
  /** When, in parts of the call's usual time. */
  at: number;
  /** Stop and remove what still runs. */
  direct: boolean;
  /** Milliseconds after which the server that comes back is killed once more. */
  again?: number;
}

/** What the client of one round knows. */
interface Life {
  config: PodConfig;
  container: ContainerConfig;
  pod?: string;
  id?: string;
  /** Calls that were answered with OK. */
  done: Set<Verb>;
}

/** Milliseconds that each call takes, as it was seen last. */
const usual: Record<Verb, number> = {
  pull: 1500,
  runp: 4000,
  create: 1500,
  start: 800,
  stop: 600,
  stopp: 800,
  rmp: 300,
};

/** Processes of the VMMs, but for those in `known`. */
const vmms = (known: ReadonlySet<number>) =>
  processes(podvm())
    .filter(({ uid, pid }) => uid >= podvm().uidBase && !known.has(pid))
    .map(({ pid }) => pid);

test(`killed at ${rounds} random moments (PODVM_FAULT_SEED=${seed})`, async (t) => {
  t.timeout(120_000 + rounds * 120_000);
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  const bystander = await podvm().podWith({}, { linux: { cgroup_parent: podvm().cgroupParent } });
  const bystanderVmms = new Set(vmms(new Set()));
  const boot = () => crictl.exec(bystander.id, "cat", "/proc/sys/kernel/random/boot_id");
  const booted = await boot();
  const before = await snapshot(podvm());
  const random = seeded(seed);
  for (let round = 0; round < rounds; round++) {
    const plan: Plan = {
      verb: VERBS[random(VERBS.length)] ?? "runp",
      victim: (["server", "server", "vmm", "both"] as const)[random(4)] ?? "server",
      at: random(1200) / 1000,
      direct: random(2) === 0,
    };
    const again = random(2500);
    if (plan.victim !== "vmm" && again % 3 === 0) plan.again = again;
    if (plan.verb === "pull") plan.victim = "server";
    const what = `round ${round}: ${JSON.stringify(plan)}`;
    try {
      const life = await live(plan, bystanderVmms);
      if (plan.again !== undefined) {
        const start = podvm().start();
        await sleep(plan.again);
        await podvm().kill();
        await start.catch(() => {});
      }
      if (!podvm().running) await podvm().start();
      await promises(t, life, plan);
      t.is(await boot(), booted, "the other pod goes on");
      await retry(t, life, plan);
      await removeAll(bystander.podId);
      const rest = await until("the node is as before", 20_000, async () => {
        const now = left(before, await snapshot(podvm()));
        return Object.keys(now).length === 0 && now;
      }).catch(async () => left(before, await snapshot(podvm())));
      t.deepEqual(rest, {}, what);
      if (Object.keys(rest).length > 0) return;
      t.log(what);
    } catch (err) {
      t.log(`FAILED ${what}\n${podvm().logTail(60)}`);
      throw err;
    }
  }
  t.is((await crictl.inspect(bystander.id)).state, "CONTAINER_RUNNING");
});

/** A pod's whole life up to and with the planned call, in which the victim dies. */
async function live(plan: Plan, known: ReadonlySet<number>): Promise<Life> {
  const { crictl } = podvm();
  const life: Life = {
    config: podvm().pod({
      portMappings: [{ protocol: 0, container_port: 80, host_port: randomInt(20_000, 60_000) }],
      linux: { cgroup_parent: podvm().cgroupParent }, // a pod's own parent is kubelet's to make and remove
    }),
    container: containerConfig({ command: ["sh", "-c", "echo here; exec sleep 3600"] }),
    done: new Set(),
  };
  const skipped: readonly Verb[] = plan.direct ? ["stop", "stopp"] : [];
  for (const verb of VERBS.filter((one) => one === plan.verb || !skipped.includes(one))) {
    const call = invoke(verb, life);
    if (verb !== plan.verb) {
      await call;
      if (!life.done.has(verb)) throw new Error(`${verb} failed before anything was killed`);
      continue;
    }
    const end = Date.now() + plan.at * usual[verb];
    await sleep(plan.at * usual[verb]);
    if (plan.victim !== "vmm") await podvm().kill();
    if (plan.victim !== "server") {
      let pids = vmms(known);
      // RunPodSandbox may not have come as far yet
      for (
        ;
        pids.length === 0 && plan.victim === "vmm" && verb === "runp" && Date.now() < end + usual.runp;
        pids = vmms(known)
      )
        await sleep(20);
      for (const pid of pids) process.kill(pid, "SIGKILL");
    }
    await call;
    break;
  }
  for (const { id } of podvm().running ? await crictl.pods() : []) crictl.podIds.add(id);
  return life;
}

/** One call; what was answered is noted. Never rejects. */
async function invoke(verb: Verb, life: Life): Promise<string> {
  const { crictl } = podvm();
  const pod = life.pod ?? "none";
  const id = life.id ?? "none";
  const args: Record<Verb, () => Promise<string[]>> = {
    pull: async () => ["pull", busybox],
    runp: async () => ["runp", await crictl.file(life.config)],
    create: async () => ["create", pod, await crictl.file(life.container), await crictl.file(life.config)],
    start: async () => ["start", id],
    stop: async () => ["stop", "--timeout", "0", id],
    stopp: async () => ["stopp", pod],
    rmp: async () => ["rmp", "--force", pod],
  };
  if (verb === "pull") await crictl.attempt(["rmi", busybox]);
  const began = Date.now();
  const result = await crictl.attempt(await args[verb]());
  if (result.code !== 0) return result.stderr;
  usual[verb] = Date.now() - began;
  life.done.add(verb);
  if (verb === "runp") {
    life.pod = result.stdout.trim();
    crictl.podIds.add(life.pod);
  }
  if (verb === "create") life.id = result.stdout.trim();
  return "";
}

/** What the client was told is true, and nothing else is to be seen. */
async function promises(t: ExecutionContext, life: Life, { verb, victim }: Plan): Promise<void> {
  const { crictl } = podvm();
  const { done } = life;
  const pods = (await crictl.pods()).filter((pod) => pod.metadata.uid === life.config.metadata.uid);
  t.true(pods.length <= 1, "one request, at most one sandbox");
  for (const { id } of pods) crictl.podIds.add(id);
  const [pod] = pods;
  if (!life.pod) {
    if (pod && victim === "server") {
      t.is(pod.state, "SANDBOX_READY", "a sandbox whose id was lost on its way is whole");
      t.not((await crictl.inspectp(pod.id)).network.ip, "");
    }
    return;
  }
  if (done.has("rmp")) {
    t.is(pod, undefined, "removed is removed");
    return;
  }
  if (!pod) {
    t.is(verb, "rmp", "only a removal under way takes a sandbox away");
    return;
  }
  t.is(pod.id, life.pod);
  const stopAsked = verb === "stopp" || verb === "rmp";
  if (done.has("stopp")) t.is(pod.state, "SANDBOX_NOTREADY");
  else if (!stopAsked && victim === "server") t.is(pod.state, "SANDBOX_READY");
  else if (!stopAsked) {
    await until("the sandbox is NotReady", 15_000, async () => {
      return (await crictl.inspectp(pod.id)).state === "SANDBOX_NOTREADY";
    });
  }
  await containerPromises(t, life, stopAsked || victim !== "server", verb);
}

async function containerPromises(t: ExecutionContext, life: Life, vmMayBeGone: boolean, verb: Verb): Promise<void> {
  const { crictl } = podvm();
  const { done } = life;
  const all = (await crictl.containers()).filter(({ podSandboxId }) => podSandboxId === life.pod);
  t.true(all.length <= 1, "one request, at most one container");
  const [container] = all;
  if (!life.id) {
    if (container) t.true(vmMayBeGone || container.state === "CONTAINER_CREATED", container.state);
    return;
  }
  if (verb === "rmp") return;
  t.is(container?.id, life.id);
  const state = async () => (await crictl.inspect(life.id ?? "")).state;
  if (vmMayBeGone || done.has("stop")) {
    if (verb === "stopp" && !done.has("stopp")) return;
    const status = await until("the container has exited", 15_000, async () => {
      const now = await crictl.inspect(life.id ?? "");
      return now.state === "CONTAINER_EXITED" && now;
    });
    t.not(status.exitCode, 0);
  } else if (verb === "stop") {
    t.true(["CONTAINER_RUNNING", "CONTAINER_EXITED"].includes(await state()));
  } else if (done.has("start")) {
    t.is(await state(), "CONTAINER_RUNNING");
    t.is(await crictl.exec(life.id, "echo", "alive"), "alive");
    t.is(await crictl.run("logs", life.id), "here");
  } else if (verb === "start") {
    const now = await state();
    t.true(["CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED"].includes(now), now);
    if (now === "CONTAINER_RUNNING") t.is(await crictl.exec(life.id, "echo", "alive"), "alive");
  } else t.is(await state(), "CONTAINER_CREATED");
}

/** Asked again, the call succeeds, or finds what the first one made. */
async function retry(t: ExecutionContext, life: Life, { verb, victim }: Plan): Promise<void> {
  if (life.done.has(verb) || (victim !== "server" && ["create", "start"].includes(verb))) return;
  const said = await invoke(verb, life);
  const found = { runp: /already.?exists/i, create: /already.?exists/i, start: /wanted it created, it is/ };
  if (said !== "") t.regex(said, found[verb as keyof typeof found] ?? /^$/, `${verb} asked again`);
}

async function removeAll(except: string): Promise<void> {
  const { crictl } = podvm();
  for (const { id } of await crictl.pods()) {
    crictl.podIds.add(id);
    if (id !== except) await podvm().removePod(id);
  }
}
