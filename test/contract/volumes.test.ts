/** The volumes of a pod against the real agent, run as a plain process: what the server reads, pushes, follows, forwards and takes up again. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { Agent } from "../../src/agent/client.js";
import { connectAgent } from "../../src/agent/link.js";
import { silentLogger } from "../../src/host/log.js";
import type { MountConfig } from "../../src/pod/types.js";
import type { VmSpec } from "../../src/vmm/vmm.js";
import { PodVolumes } from "../../src/volume/pod-volumes.js";
import type { VolumeDocument } from "../../src/volume/types.js";
import { endChild } from "../support/child.js";
import { atomicWrite, emptyDir } from "../support/kubelet-volumes.js";
import { projectRoot, toolIfThere } from "../support/tools.js";
import { until } from "../support/until.js";

const binary = process.env.PODVM_AGENT ?? join(projectRoot, "target/x86_64-unknown-linux-musl/release/podvm-agent");
const assets = toolIfThere("assets") ?? process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets";
const crun = [join(assets, "bundle/current/bin/crun"), "/usr/bin/crun"].find((path) => existsSync(path));
const lacking =
  (process.geteuid?.() !== 0 && "not root: the agent cannot mount") ||
  (!existsSync(binary) && "no podvm-agent: build it (make agent) or set PODVM_AGENT") ||
  (!crun && "no crun: neither in the runtime bundle nor installed");
if (lacking) console.log(`skipped: volumes down to the agent: ${lacking}`);
const agentTest = lacking ? test.serial.skip : test.serial;

const dir = mkdtempSync(join(tmpdir(), "podvm-volumes-"));
const socket = join(dir, "agent.sock");
let agentProcess: ChildProcess | undefined;
let agent: Agent;

test.before(async () => {
  if (lacking || !crun) return;
  agentProcess = spawn(binary, ["--listen", socket, "--state", join(dir, "state"), "--crun", crun], {
    stdio: "ignore",
  });
  await until("the agent listens", 20_000, () => existsSync(socket));
  agent = await connectAgent({ path: socket }, { deadlineMs: 30_000, logger: silentLogger });
  await agent.configureSandbox({ podId: "pod1", hostname: "test" });
});

test.after.always(async () => {
  agent?.close();
  if (agentProcess) await endChild(agentProcess);
  rmSync(dir, { recursive: true, force: true });
});

const mount = (hostPath: string, more: Partial<MountConfig> = {}): MountConfig => ({
  containerPath: "/m",
  hostPath,
  readonly: false,
  recursiveReadonly: false,
  propagation: "private",
  options: [],
  ...more,
});

/** The volumes of a pod, as a server holds them until the signal is aborted; `fail` breaks the next calls of the agent. */
function server(
  t: ExecutionContext,
  documents: VolumeDocument[],
  more: { sockets?: string[]; containers?: string[]; fail?: (call: string) => boolean } = {},
) {
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  const saved: string[] = [];
  const calling = new Proxy(agent, {
    get(target, name: keyof Agent) {
      const value = target[name];
      if (typeof value !== "function") return value;
      if (more.fail?.(name)) return () => Promise.reject(new Error(`${name}: broken for the test`));
      return value.bind(target);
    },
  });
  const volumes = new PodVolumes({
    podUid: "uid-1",
    vm: {} as VmSpec,
    documents,
    async save() {
      saved.push(JSON.stringify(documents));
    },
    agent: async () => agent,
    call: (work) => work(calling),
    attach: () => Promise.reject(new Error("there is no VM")),
    hasContainer: (id) => (more.containers ?? ["c1"]).includes(id),
    images: { find: () => undefined, device: () => Promise.reject(new Error("there are no images")) },
    shares: undefined,
    sockets: more.sockets ?? [],
    logger: silentLogger,
    signal: stop.signal,
  });
  return { volumes, saved, stop };
}

/** The agent's mounts are its own: seen through its process. */
const inside = (path: string) =>
  join(`/proc/${agentProcess?.pid}/root`, realpathSync(join(dir, "state")), "volumes", path);

const idOf = (source: string | undefined) => source?.split("/")[1] ?? "";

agentTest("a ConfigMap is pushed, followed, and taken up by the next server", async (t) => {
  const folder = join(dir, "conf");
  await atomicWrite(folder, { key: "one" });
  const documents: VolumeDocument[] = [];
  const first = server(t, documents);
  const { mounts } = await first.volumes.prepare("c1", [mount(folder, { readonly: true })], []);
  const live = inside(`${idOf(mounts[0]?.source)}/live`);
  t.is(readFileSync(join(live, "key"), "utf8"), "one");
  t.true(first.saved[0]?.includes(folder), "written before it is made");
  const again = await first.volumes.prepare("c2", [mount(folder, { readonly: true })], []);
  t.is(again.mounts[0]?.source, mounts[0]?.source, "one volume of the pod");

  await atomicWrite(folder, { key: "two", more: "x" });
  await until("the second generation", 20_000, () => readFileSync(join(live, "key"), "utf8") === "two");
  first.stop.abort();
  await atomicWrite(folder, { key: "three" });
  const next = server(t, JSON.parse(JSON.stringify(documents)) as VolumeDocument[]);
  await next.volumes.resume();
  await until("what was written meanwhile", 20_000, () => readFileSync(join(live, "key"), "utf8") === "three");
  await atomicWrite(folder, { key: "four" });
  await until("what came after", 20_000, () => readFileSync(join(live, "key"), "utf8") === "four");
  t.false(existsSync(join(live, "more")));
});

agentTest("a push that fails is made again; a volume that cannot be made leaves nothing", async (t) => {
  const file = join(dir, "hosts");
  await writeFile(file, "one");
  let broken = true;
  const documents: VolumeDocument[] = [];
  const { volumes } = server(t, documents, { fail: (call) => broken && call === "syncVolume" });
  const hosts = mount(file, { containerPath: "/etc/hosts" });
  await t.throwsAsync(volumes.prepare("c1", [hosts], []), { message: /broken for the test/ });
  t.deepEqual(documents, []);
  broken = false;
  const { mounts } = await volumes.prepare("c1", [hosts], []);
  const live = inside(`${idOf(mounts[0]?.source)}/live`);
  t.is(await readFile(live, "utf8"), "one");
  broken = true;
  await writeFile(file, "two");
  await until("it was tried", 20_000, async () => (await readFile(live, "utf8")) === "one");
  broken = false;
  await until("it is there after all", 30_000, async () => (await readFile(live, "utf8")) === "two");
});

agentTest(
  "a termination log is fetched, and goes with its container, also where its creation was cut short",
  async (t) => {
    const log = join(dir, "pods/uid-1/containers/c/1a2b");
    await mkdir(join(log, ".."), { recursive: true });
    await writeFile(log, "");
    const documents: VolumeDocument[] = [];
    const { volumes } = server(t, documents);
    const { mounts } = await volumes.prepare("c1", [mount(log)], []);
    await writeFile(inside(`${idOf(mounts[0]?.source)}/live`), "because");
    await volumes.collect("other");
    t.is(await readFile(log, "utf8"), "");
    await volumes.collect("c1");
    t.is(await readFile(log, "utf8"), "because");
    await server(t, documents, { containers: [] }).volumes.resume();
    t.deepEqual(documents, []);
    t.false(existsSync(inside(idOf(mounts[0]?.source))));
  },
);

agentTest("an emptyDir is one for its sub-paths, with the host's mode", async (t) => {
  const root = await emptyDir(dir, "uid-1", "cache");
  await mkdir(join(root, "sub"));
  const { volumes } = server(t, []);
  const { mounts } = await volumes.prepare("c1", [mount(root), mount(join(root, "sub"))], []);
  const [whole, sub] = mounts;
  t.is(sub?.source, `${whole?.source}/sub`);
});

agentTest("connections through a socket reach the host's, many and in both directions", async (t) => {
  const path = join(dir, "host.sock");
  const echo = net.createServer({ allowHalfOpen: true }, (connection) => connection.pipe(connection));
  await new Promise<void>((resolve) => echo.listen(path, resolve));
  t.teardown(() => echo.close());
  const { volumes } = server(t, [], { sockets: [path] });
  const { mounts } = await volumes.prepare("c1", [mount(path)], []);
  const inGuest = inside(`${idOf(mounts[0]?.source)}/socket`);
  const sent = Buffer.alloc(300_000, "podvm");
  const heard = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const connection = net.connect({ path: inGuest, allowHalfOpen: true });
      connection.end(sent);
      const chunks: Buffer[] = [];
      for await (const chunk of connection) chunks.push(chunk as Buffer);
      return Buffer.concat(chunks);
    }),
  );
  for (const one of heard) t.true(one.equals(sent));
});
