/** What the processes of two pods' VMMs may do and see, as /proc tells it while the pods run. */
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { status } from "../contract/vmm-host.js";
import { busybox } from "../support/manifests.js";
import { suite } from "../support/suite.js";

const { test, podvm } = suite();

interface Info {
  pid: number;
  uid: number;
  cgroup: string;
  netns: string;
}

test.before(async () => {
  await podvm().crictl.run("pull", busybox);
});

const infoOf = async (podId: string) =>
  (await podvm().crictl.json<{ info: Info }>("inspectp", "-o", "json", podId)).info;

const namespace = (pid: number, kind: string) => readlink(`/proc/${pid}/ns/${kind}`);

/** Every file and folder below the process's root, by path, that its user may write to. */
async function writable(pid: number, uid: number): Promise<string[]> {
  const mounts = (await readFile(`/proc/${pid}/mountinfo`, "utf8")).trim().split("\n");
  const readOnly = new Set(mounts.filter((l) => /^ro\b/.test(l.split(" ")[5] ?? "")).map((l) => l.split(" ")[4] ?? ""));
  const found: string[] = [];
  const walk = async (path: string) => {
    if (readOnly.has(path === "" ? "/" : path) && path !== "") return;
    for (const entry of await readdir(`/proc/${pid}/root${path}`, { withFileTypes: true })) {
      const child = `${path}/${entry.name}`;
      const { mode, uid: owner } = await stat(`/proc/${pid}/root${child}`);
      if (mode & 0o002 || (owner === uid && mode & 0o200)) found.push(child);
      if (entry.isDirectory()) await walk(child);
    }
  };
  await walk("");
  return found.sort();
}

/** Regular files that the process holds open for writing. */
async function openForWriting(pid: number): Promise<string[]> {
  const found: string[] = [];
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    const flags = /flags:\s+(\d+)/.exec(await readFile(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    const forWriting = (Number.parseInt(flags, 8) & 3) !== 0;
    if (forWriting && (await stat(path)).isFile()) found.push(await readlink(path));
  }
  return [...new Set(found)].sort();
}

test("the VMMs of two pods are confined, each by itself", async (t) => {
  const pods = [await podvm().podWith(), await podvm().podWith()];
  const infos = await Promise.all(pods.map(({ podId }) => infoOf(podId)));
  t.is(new Set(infos.map(({ uid }) => uid)).size, 2, "a user id each");
  for (const [i, { pid, uid, cgroup, netns }] of infos.entries()) {
    const podId = pods[i]?.podId ?? "";
    const facts = await status(pid);
    for (const key of ["Uid", "Gid"]) t.is(facts[key], [uid, uid, uid, uid].join("\t"), key);
    t.is(facts.Groups, "");
    for (const key of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) t.is(facts[key], "0000000000000000", key);
    t.is(facts.NoNewPrivs, "1");
    t.is(facts.Seccomp, "2");
    for (const kind of ["mnt", "net", "pid", "ipc"]) {
      t.not(await namespace(pid, kind), await namespace(podvm().pid, kind), `${kind} namespace`);
    }
    t.is(await namespace(pid, "net"), `net:[${(await stat(netns)).ino}]`);
    const groups = (await readFile(`/proc/${pid}/cgroup`, "utf8")).trim().split("\n");
    for (const line of groups) t.is(line.split(":").slice(2).join(":"), cgroup);
    t.true(cgroup.startsWith(`${podvm().cgroupParent}/`), "below the parent that the client named");
    const environment = (await readFile(`/proc/${pid}/environ`, "utf8")).split("\0").filter((line) => line !== "");
    t.deepEqual(
      environment.map((line) => line.split("=")[0]),
      ["LD_LIBRARY_PATH"],
    );

    const scratch = join(podvm().stateDir, "vms", podId, "disks/scratch.raw");
    t.deepEqual(
      (await writable(pid, uid)).filter((path) => !path.startsWith("/dev/")),
      [scratch],
    );
    t.deepEqual(await openForWriting(pid), [scratch]);
    const seen = await readdir(`/proc/${pid}/root${podvm().stateDir}/vms`);
    t.deepEqual(seen, [podId], "no other pod's files");
  }
  const [a, b] = infos as [Info, Info];
  for (const kind of ["mnt", "net", "pid"]) t.not(await namespace(a.pid, kind), await namespace(b.pid, kind), kind);
  for (const { podId } of pods) await podvm().removePod(podId);
});
