/** podvm-launch with a real program (busybox), seen from /proc. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { chown, mkdir, readdir, readFile, stat } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { openCgroups } from "../../src/host/cgroup.js";
import { PodvmError } from "../../src/host/errors.js";
import { isAlive, killProcess, waitGone } from "../../src/host/process.js";
import { run } from "../../src/host/run.js";
import { type LaunchDocument, type Launched, launch, readPidFile } from "../../src/vmm/launch.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";
import * as host from "./vmm-host.js";

const uid = 231_234;
const deadline = 20_000;
/** busybox and its libraries, a copy that every user may read. */
const programs = mkdtempSync(join(tmpdir(), "podvm-test-"));
cpSync(tool("busybox"), programs, { recursive: true, dereference: true });
for (const entry of ["", ...readdirSync(programs, { recursive: true })])
  chmodSync(join(programs, String(entry)), 0o755);
/** Its loader is named, for there is none at the usual place in the new root; and its shell finds no other programs without /proc. */
const loader = join(programs, "lib64/ld-linux-x86-64.so.2");
const busyboxArgs = ["--library-path", join(programs, "lib/x86_64-linux-gnu"), join(programs, "bin/busybox")];
const busybox = [loader, ...busyboxArgs].join(" ");
test.after.always(() => rmSync(programs, { recursive: true }));

/** A document that starts `busybox ARGS` in a root of its own. */
async function rig(
  t: ExecutionContext,
  args: string[],
): Promise<{ document: LaunchDocument; dir: string; cgroup: string }> {
  const dir = await host.folder(t);
  await mkdir(join(dir, "root"));
  await mkdir(join(dir, "disks"));
  const cgroup = host.cgroupName(t);
  const document: LaunchDocument = {
    version: 1,
    program: loader,
    args: [...busyboxArgs, ...args],
    env: { ONLY: "this" },
    uid,
    gid: uid + 1,
    cgroups: await (await openCgroups()).make(cgroup),
    sockets: [{ path: join(dir, "a.sock"), fd: 3 }],
    root: {
      mountPoint: join(dir, "root"),
      binds: [
        { path: programs, access: "execute" },
        { path: join(dir, "disks"), access: "write" },
      ],
      devices: ["/dev/null", "/dev/urandom"],
    },
    rlimits: { nofile: 123, nproc: 45, memlock: 0 },
    oomScoreAdj: 17,
    hugePages: false,
    pidFile: join(dir, "pid"),
  };
  return { document, dir, cgroup };
}

async function start(t: ExecutionContext, document: LaunchDocument): Promise<Launched> {
  const launched = await launch(host.assets().launch, document, deadline);
  t.teardown(async () => {
    await killProcess(launched.process);
    await waitGone(launched.process, deadline);
  });
  return launched;
}

async function refusal(t: ExecutionContext, document: LaunchDocument): Promise<string> {
  const err = await t.throwsAsync(launch(host.assets().launch, document, deadline), { instanceOf: PodvmError });
  return err?.message ?? "";
}

test("the program runs as its own user without any privilege", async (t) => {
  const { document } = await rig(t, ["sleep", "600"]);
  const { process } = await start(t, document);
  const status = await host.status(process.pid);
  t.is(status.Uid, `${uid}\t${uid}\t${uid}\t${uid}`);
  t.is(status.Gid, [1, 1, 1, 1].map((n) => uid + n).join("\t"));
  t.is(status.Groups, "");
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) t.is(status[set], "0000000000000000", set);
  t.is(status.NoNewPrivs, "1");
  t.is(status.THP_enabled, "0");
  t.is((await readFile(`/proc/${process.pid}/oom_score_adj`, "utf8")).trim(), "17");
  t.is(await readFile(`/proc/${process.pid}/environ`, "utf8"), "ONLY=this\0");
  const limits = await readFile(`/proc/${process.pid}/limits`, "utf8");
  t.regex(limits, /^Max open files\s+123\s+123 /m);
  t.regex(limits, /^Max processes\s+45\s+45 /m);
  t.regex(limits, /^Max core file size\s+0\s+0 /m);
  t.regex(limits, /^Max locked memory\s+0\s+0 /m);
});

test("the program has namespaces of its own and is the first process of its own", async (t) => {
  const { document } = await rig(t, ["sleep", "600"]);
  const { process: child } = await start(t, document);
  const [ours, theirs] = [await host.namespaces("self"), await host.namespaces(child.pid)];
  for (const kind of Object.keys(ours)) t.not(theirs[kind], ours[kind], kind);
  const fields = (await readFile(`/proc/${child.pid}/stat`, "utf8")).split(") ")[1]?.split(" ") ?? [];
  t.not(Number(fields[1]), process.pid, "it is no child of ours");
  t.is(Number(fields[3]), child.pid, "it leads a session of its own");
  t.is((await host.status(child.pid)).NSpid, `${child.pid}\t1`);
});

test("the program's root holds only what the document lists", async (t) => {
  const { document, dir } = await rig(t, ["sleep", "600"]);
  const { process } = await start(t, document);
  const binds = document.root.binds.map(({ path }) => path);
  t.deepEqual(await host.rootContents(process.pid, binds), ["/dev/null", "/dev/urandom"]);
  const mounts = await host.mounts(process.pid);
  t.deepEqual([...mounts.keys()].sort(), ["/", ...binds].sort());
  for (const flag of ["ro", "nosuid", "noexec"]) t.true(mounts.get("/")?.includes(flag), flag);
  for (const flag of ["ro", "nosuid", "nodev"]) t.true(mounts.get(programs)?.includes(flag), flag);
  for (const flag of ["rw", "nosuid", "noexec"]) t.true(mounts.get(`${dir}/disks`)?.includes(flag), flag);
  t.deepEqual(await readdir(join(dir, "root")), [], "nothing of it shows outside");
});

test("the program is in every cgroup from its first instruction", async (t) => {
  const { document, cgroup } = await rig(t, ["sleep", "600"]);
  const { process } = await start(t, document);
  const lines = (await readFile(`/proc/${process.pid}/cgroup`, "utf8")).trim().split("\n");
  t.is(lines.length, document.cgroups.length);
  for (const line of lines) t.true(line.endsWith(`:${cgroup}`), line);
});

test("sockets and tap lie at their numbers, and nothing else is open", async (t) => {
  const { document, dir } = await rig(t, ["sleep", "600"]);
  document.netns = await host.netnsWithTap(t, "tap0", uid);
  document.tap = { name: "tap0", fd: 4 };
  document.sockets.push({ path: join(dir, "b.sock"), fd: 9 });
  document.stderrCopy = 7;
  const { process } = await start(t, document);
  const open = await host.descriptors(process.pid);
  t.deepEqual(
    [...open.keys()].sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 7, 9],
  );
  t.is(open.get(0), "/dev/null");
  t.is(open.get(1), "/dev/null");
  t.is(open.get(2), open.get(7));
  t.true(open.get(4)?.endsWith("/net/tun"));
  t.regex(await readFile(`/proc/${process.pid}/fdinfo/4`, "utf8"), /^iff:\s*tap0$/m);
  t.is(`net:[${(await stat(document.netns)).ino}]`, (await host.namespaces(process.pid)).net ?? "");
  for (const { path } of document.sockets) {
    const { mode, uid: owner } = await stat(path);
    t.deepEqual([mode & 0o777, owner], [0o600, 0]);
    const socket = connect(path);
    await once(socket, "connect");
    socket.destroy();
  }
});

test("what the program writes to standard error is heard", async (t) => {
  const { document } = await rig(t, ["sh", "-c", `echo first >&2; echo ready >&2; exec ${busybox} sleep 600`]);
  const launched = await start(t, document);
  await until("both lines", deadline, () => launched.stderr.text() === "first\nready");
  t.is(launched.stderr.text(), "first\nready");
});

test("a reader that stops reading does not stop the program", async (t) => {
  const { document, dir } = await rig(t, [
    "sh",
    "-c",
    `${busybox} yes | ${busybox} head -c 4000000 >&2; echo done >DISKS/done; exec ${busybox} sleep 600`,
  ]);
  document.args = document.args.map((arg) => arg.replace("DISKS", `${dir}/disks`));
  await chown(`${dir}/disks`, uid, uid + 1);
  // The launcher alone, its standard error a pipe that nobody reads.
  const launcher = spawn(host.assets().launch, [], { stdio: ["pipe", "pipe", "pipe"] });
  launcher.stdin.end(JSON.stringify(document));
  const answer = JSON.parse(String((await once(launcher.stdout, "data"))[0]));
  t.teardown(() => killProcess(answer));
  await until("the program's mark", deadline, () => existsSync(`${dir}/disks/done`));
  t.true(await isAlive(answer));
});

test("the pid file names the process, and the process outlives a killed server", async (t) => {
  const { document } = await rig(t, ["sleep", "600"]);
  const launchModule = new URL("../../src/vmm/launch.js", import.meta.url).pathname;
  const server = spawn(
    process.execPath,
    [
      "--input-type=module",
      "--eval",
      `import { launch } from ${JSON.stringify(launchModule)};
       await launch(process.argv[1], JSON.parse(process.argv[2]), ${deadline});
       console.log("started"); setInterval(() => {}, 1000);`,
      host.assets().launch,
      JSON.stringify(document),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(server.stdout, "data");
  const ref = await readPidFile(document.pidFile);
  if (!ref) return t.fail("no pid file");
  t.teardown(() => killProcess(ref));
  const gone = once(server, "exit");
  server.kill("SIGKILL");
  await gone;
  t.true(await isAlive(ref));
  t.false(await isAlive({ ...ref, starttime: ref.starttime + 1 }), "another process with that pid is another process");
  await killProcess(ref);
  await waitGone(ref, deadline);
  t.false(await isAlive(ref));
});

test("a step that fails is named, and nothing is left", async (t) => {
  const cases: [string, RegExp, (document: LaunchDocument) => void][] = [
    ["program", /execute \/.*: No such file/, (d) => (d.program += "-missing")],
    ["cgroup", /join cgroup \/.*: No such file/, (d) => d.cgroups.push("/sys/fs/cgroup/podvm-none")],
    ["network namespace", /enter network namespace \/.*: No such file/, (d) => (d.netns = "/run/netns/podvm-none")],
    ["bind", /bind \/.*: No such file/, (d) => d.root.binds.push({ path: "/podvm-none", access: "read" })],
    ["unknown field", /document: unknown field/, (d) => Object.assign(d, { surprise: true })],
    ["root", /document: uid and gid must not be 0/, (d) => (d.uid = 0)],
    ["limit", /limit nofile/, (d) => (d.rlimits.nofile = 2 ** 40)],
  ];
  for (const [name, message, change] of cases) {
    const { document, cgroup, dir } = await rig(t, ["sleep", "600"]);
    change(document);
    t.regex(await refusal(t, document), message, name);
    t.deepEqual((await readdir(dir)).sort(), ["disks", "root"], name);
    t.deepEqual(await (await openCgroups()).pids(cgroup), [], name);
  }
});

test("a tap that is not there is an error and is not made", async (t) => {
  const { document } = await rig(t, ["sleep", "600"]);
  document.netns = await host.netnsWithTap(t, "tap0", uid);
  document.tap = { name: "tap1", fd: 4 };
  t.regex(await refusal(t, document), /open tap tap1: No such device/);
  const links = await run([
    bundleTool(host.assets(), "ip"),
    "-o",
    "-n",
    document.netns.replace("/run/netns/", ""),
    "link",
  ]);
  t.false(links.stdout.includes("tap1"));
});

test("a socket path that is taken is an error, and what lies there stays", async (t) => {
  const { document, dir } = await rig(t, ["sleep", "600"]);
  document.sockets.push({ path: join(dir, "disks"), fd: 4 });
  t.regex(await refusal(t, document), /listen on .*Address .*in use/);
  t.true(existsSync(join(dir, "disks")));
  t.false(existsSync(join(dir, "a.sock")), "the socket made before it is gone");
});

test("a missing launcher says what to do", async (t) => {
  const { document } = await rig(t, ["sleep", "600"]);
  const err = await t.throwsAsync(launch("/podvm-none", document, deadline), { instanceOf: PodvmError });
  t.is(err?.code, "not_found");
  t.regex(err?.message ?? "", /run setup/);
});

test("removing a cgroup kills what forks in it", async (t) => {
  const { document, cgroup } = await rig(t, [
    "sh",
    "-c",
    `for i in 1 2 3 4 5 6 7 8; do ${busybox} sleep 600 & done; wait`,
  ]);
  const { process: child } = await launch(host.assets().launch, document, deadline);
  const groups = await openCgroups();
  await until("its children", deadline, async () => (await groups.pids(cgroup)).length === 9);
  await groups.remove(cgroup, deadline);
  t.false(await isAlive(child));
  t.deepEqual(await host.cgroupFolders(cgroup), []);
  await groups.remove(cgroup, deadline); // a second time is no error
});
