/** The security context in a VM: pid namespaces, sysctls, privileged, user namespaces, profiles. */
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { chmod, chown, writeFile } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import { emptyDir } from "../support/kubelet-volumes.js";
import { busybox, containerConfig, type PodOptions } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

test.before(async () => {
  await podvm().crictl.run("pull", busybox);
});

const POD = 0;
const CONTAINER = 1;
const NODE = 2;
const TARGET = 3;
const security = (context: object) => ({ linux: { security_context: context } });

/** Output of a shell script in a container that lasts. */
const shell = (id: string, script: string) => podvm().crictl.exec(id, "sh", "-c", script);

test("hostPID is the VM's own pid namespace: of its agent and all its containers, and of nothing of the host", async (t) => {
  const { crictl } = podvm();
  const context = security({ namespace_options: { pid: NODE } });
  const { config, podId, id } = await podvm().podWith({ ...context, command: ["sleep", "4711"] }, context);
  const second = await crictl.start(podId, containerConfig(context), config);
  t.regex(await shell(second, "cat /proc/1/cmdline"), /^\/init/);
  const listed = await shell(second, "ps");
  t.regex(listed, /sleep 4711/);
  t.notRegex(listed, /qemu|crictl/);
  t.is((await shell(id, "readlink /proc/self/ns/pid")).slice(0, 4), "pid:");
  await podvm().removePod(podId);
});

test("a container joins the pid namespace of another that it names", async (t) => {
  const { crictl } = podvm();
  const context = security({ namespace_options: { pid: CONTAINER } });
  const { config, podId, id } = await podvm().podWith({ ...context, command: ["sleep", "4712"] }, context);
  const debug = security({ namespace_options: { pid: TARGET, target_id: id } });
  const second = await crictl.start(podId, containerConfig(debug), config);
  t.is(await shell(second, "readlink /proc/self/ns/pid"), await shell(id, "readlink /proc/self/ns/pid"));
  t.regex(await shell(second, "cat /proc/1/cmdline"), /4712/);
  const nobody = security({ namespace_options: { pid: TARGET, target_id: "none" } });
  const files = [await crictl.file(containerConfig(nobody)), await crictl.file(config)];
  t.regex(await crictl.fails("create", podId, ...files), /none/);
  await podvm().removePod(podId);
});

test("sysctls are set, and seen in the containers; one that cannot be set ends the pod with its name, and leaves nothing", async (t) => {
  const { crictl } = podvm();
  const sysctls = { "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100", "net.core.somaxconn": "777" };
  const { podId, id } = await podvm().podWith({}, { linux: { sysctls } });
  const files = Object.keys(sysctls).map((name) => `/proc/sys/${name.replaceAll(".", "/")}`);
  t.is(await shell(id, `cat ${files.join(" ")}`), "1\n100\n777");
  await podvm().removePod(podId);

  for (const [name, value, said] of [
    ["net.core.no_such_thing", "1", /net\.core\.no_such_thing: this kernel has none/],
    ["net.core.somaxconn", "many", /net\.core\.somaxconn: the kernel refuses \\*"many/],
    ["kernel.core_pattern", "|/bin/sh", /kernel\.core_pattern is not one that a pod may set/],
  ] as const) {
    const config = podvm().pod({ linux: { sysctls: { [name]: value } } });
    t.regex(await crictl.fails("runp", await crictl.file(config)), said);
  }
  t.deepEqual(await crictl.pods(), []);
  const folder = `${podvm().stateDir}/vms`;
  t.deepEqual(existsSync(folder) ? readdirSync(folder) : [], []);
});

test("privileged: bridges, devices and mounts of the guest; without it none of them", async (t) => {
  const { crictl } = podvm();
  const context = security({ privileged: true });
  const { config, podId, id } = await podvm().podWith(context, context);
  t.is(await shell(id, "ip link add foobar type bridge && ip link show foobar | grep -c foobar"), "1");
  t.regex(await shell(id, "mount -t tmpfs none /tmp && mount | grep ' /tmp '"), /tmpfs/);
  t.regex(await shell(id, "mount | grep ' /sys '"), /\(rw/);
  const devices = await shell(id, "ls /dev; ls /dev/mapper 2>/dev/null || true");
  t.regex(devices, /^kmsg$/m);
  t.regex(devices, /^(sd|vd)a$/m);
  t.notRegex(devices, /^vport/m);
  t.regex(await shell(id, "dd if=$(ls /dev/[sv]d? | head -n 1) of=/dev/null bs=512 count=1 2>&1"), /1\+0 records in/);
  t.regex(await shell(id, "grep Cap /proc/self/status"), /CapEff:\s+0{0,8}[0-9a-f]*1ff/);

  const plain = await crictl.start(podId, containerConfig(), config);
  for (const script of ["ip link add barfoo type bridge", "mount -t tmpfs none /tmp", "ls /dev/kmsg"]) {
    t.not((await crictl.attempt(["exec", "-s", plain, "sh", "-c", script])).code, 0, script);
  }
  t.regex(await shell(plain, "mount | grep ' /sys '"), /\(ro/);
  await podvm().removePod(podId);
});

test("masked and read-only paths, a read-only root, no new privileges", async (t) => {
  const { podId, id } = await podvm().podWith(
    security({ masked_paths: ["/etc/group"], readonly_paths: ["/tmp"], no_new_privs: true }),
  );
  t.is(await shell(id, "cat /etc/group | wc -c"), "0");
  t.regex(await shell(id, "touch /tmp/x 2>&1 || true"), /Read-only file system/);
  t.regex(await shell(id, "grep NoNewPrivs /proc/self/status"), /1$/);
  const readonly = await podvm().crictl.start(
    podId,
    containerConfig(security({ readonly_rootfs: true })),
    podvm().pod(),
  );
  t.regex(await shell(readonly, "touch /x 2>&1 || true"), /Read-only file system/);
  await podvm().removePod(podId);
});

test("a profile that cannot be given ends the creation with its name", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod();
  const podId = await crictl.runp(config);
  for (const context of [
    { apparmor_profile: "localhost/podvm-not-loaded" },
    { apparmor: { profile_type: 2, localhost_ref: "podvm-not-loaded" }, apparmor_profile: "unconfined" },
  ]) {
    const files = [await crictl.file(containerConfig(security(context))), await crictl.file(config)];
    t.regex(await crictl.fails("create", podId, ...files), /AppArmor profile \\*"podvm-not-loaded/);
  }
  t.deepEqual(await crictl.containers("--pod", podId), []);
  await podvm().removePod(podId);
});

interface PodStats {
  stats: { linux: { network: { defaultInterface: { name: string; rxBytes: { value: string } } } } }[];
}

const SIZE = 65_536;
const mappings = (host_id: number) => [{ container_id: 0, host_id, length: SIZE }];
const usernsPod = (more: Record<string, unknown> = {}): PodOptions => ({
  linux: {
    ...more,
    security_context: {
      namespace_options: {
        pid: POD,
        userns_options: { mode: POD, uids: mappings(100_000), gids: mappings(200_000) },
      },
    },
  },
});

test("a user namespace of the pod: root inside is nobody outside, owns the image's files and the pod's network", async (t) => {
  const { crictl } = podvm();
  const sysctls = { "kernel.shm_rmid_forced": "1", "net.core.somaxconn": "778", "vm.max_map_count": "262144" };
  const command = ["sh", "-c", "echo to the reopened >/dev/stdout; httpd -p 80 -h /etc; exec sleep 3600"];
  const { config, podId, id } = await podvm().podWith({ command, workingDir: "/made/here" }, usernsPod({ sysctls }));

  t.regex(await shell(id, "cat /proc/self/uid_map"), /^\s*0\s+100000\s+65536$/);
  t.regex(await shell(id, "cat /proc/self/gid_map"), /^\s*0\s+200000\s+65536$/);
  t.is(await shell(id, "id -u"), "0");
  t.is(await shell(id, "stat -c %u:%g / /bin/busybox /etc/passwd /etc/hosts /made/here | sort -u"), "0:0");
  t.is(await shell(id, "pwd"), "/made/here");
  t.is(await shell(id, "echo x > /file && chown 33:44 /file && stat -c %u:%g /file"), "33:44");
  t.is(await shell(id, "echo 10.9.8.7 more >> /etc/hosts && tail -n 1 /etc/hosts"), "10.9.8.7 more");
  t.is(await shell(id, "hostname"), config.hostname);
  t.is(
    await shell(id, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn /proc/sys/vm/max_map_count"),
    "1\n778\n262144",
  );
  await until("the output is in the log", 20_000, async () => {
    return (await crictl.run("logs", id)).includes("to the reopened");
  });

  // Its own network: a port below 1024, seen from the node.
  const { network } = await crictl.inspectp(podId);
  const answered = await until("port 80 answers", 20_000, () => fetched(`http://${network.ip}/passwd`));
  t.regex(answered, /^root:/);

  // Forwarded ports and numbers come from there too.
  const conf = join(podvm().dir, "crictl/crictl.yaml");
  const forward = spawn(tool("crictl"), ["--config", conf, "port-forward", podId, "0:80"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.teardown(() => forward.kill("SIGKILL"));
  let said = "";
  forward.stdout.on("data", (data) => {
    said += data;
  });
  const port = await until("the local port", 20_000, () => /Forwarding from 127\.0\.0\.1:(\d+)/.exec(said)?.[1]);
  t.regex(
    await until("the forwarded port answers", 20_000, () => fetched(`http://127.0.0.1:${port}/passwd`)),
    /^root:/,
  );
  const { stats } = await crictl.json<PodStats>("statsp", "-o", "json", "--id", podId);
  t.is(stats[0]?.linux.network.defaultInterface.name, "eth0");
  t.true(Number(stats[0]?.linux.network.defaultInterface.rxBytes.value) > 0);

  // What belongs to the guest stays out of reach.
  const attempt = "(echo 1 > /proc/sys/vm/max_map_count) 2>/dev/null && echo written; cat /proc/sys/vm/max_map_count";
  t.is(await shell(id, attempt), "262144");

  // Another container of the pod, another user: same namespaces.
  const user = containerConfig({ ...security({ run_as_user: { value: 33 }, run_as_group: { value: 34 } }) });
  const second = await crictl.start(podId, user, config);
  t.is(await shell(second, "id -u; id -g"), "33\n34");
  for (const kind of ["user", "net", "pid", "ipc", "uts"]) {
    const link = `readlink /proc/self/ns/${kind}`;
    t.is(await shell(second, link), await shell(id, link), kind);
  }
  t.regex(await shell(second, "echo again >/dev/stderr && echo written"), /written/);
  t.regex(await shell(id, "ps -o pid,user,args | cat"), /podvm-pause/);

  const outside = containerConfig(security({ run_as_user: { value: SIZE } }));
  const files = [await crictl.file(outside), await crictl.file(config)];
  t.regex(await crictl.fails("create", podId, ...files), /uid 65536 is not in the pod's user namespace/);
  await podvm().removePod(podId);
});

test("volumes of such a pod, which kubelet asks to be id-mapped, belong to whom they belong on the host", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod(usernsPod());
  const { uid } = config.metadata;
  const podId = await crictl.runp(config);
  const mapped = { uidMappings: mappings(100_000), gidMappings: mappings(200_000) };
  const volume = await emptyDir(join(podvm().dir, "kubelet"), uid, "disk");
  await chown(volume, 0, 1234);
  await chmod(volume, 0o770);
  const hosts = join(podvm().dir, "kubelet/pods", uid, "etc-hosts");
  await writeFile(hosts, "127.0.0.1 localhost\n10.9.8.7 mine\n");
  const mounts = [
    { container_path: "/disk", host_path: volume, ...mapped },
    { container_path: "/etc/hosts", host_path: hosts, ...mapped },
  ];
  const a = await crictl.start(podId, containerConfig({ mounts }), config);
  t.is(
    await shell(a, "stat -c %u:%g:%a /disk; stat -c %u:%g /etc/hosts; tail -n 1 /etc/hosts"),
    "0:1234:770\n0:0\n10.9.8.7 mine",
  );
  t.is(await shell(a, "echo kept > /disk/file; chown 33:1234 /disk/file; stat -c %u:%g /disk/file"), "33:1234");
  const user = { run_as_user: { value: 33 }, run_as_group: { value: 1234 } };
  const b = await crictl.start(podId, containerConfig({ mounts, ...security(user) }), config);
  t.is(
    await shell(b, "cat /disk/file; stat -c %u:%g /disk/file; echo more >> /disk/file && cat /disk/file"),
    "kept\n33:1234\nkept\nmore",
  );

  const other = [{ container_path: "/disk", host_path: volume, uidMappings: mappings(7), gidMappings: mappings(7) }];
  const files = [await crictl.file(containerConfig({ mounts: other })), await crictl.file(config)];
  t.regex(await crictl.fails("create", podId, ...files), /uidMappings, gidMappings: wanted the pod's/);
  await podvm().removePod(podId);
});

test("privileged in a user namespace: its own bridges and mounts, nothing of the guest's root", async (t) => {
  const pod = usernsPod();
  const { podId, id } = await podvm().podWith(security({ privileged: true }), pod);
  t.is(await shell(id, "ip link add foobar type bridge && ip link show foobar | grep -c foobar"), "1");
  t.is(await shell(id, "mount -t tmpfs none /tmp && echo mounted"), "mounted");
  t.is(await shell(id, "mknod /null c 1 3 2>/dev/null || echo refused"), "refused");
  const devices = await shell(id, "ls /dev");
  t.regex(devices, /^fuse$/m);
  t.notRegex(devices, /^((sd|vd).|mem|kmsg)$/m);
  await podvm().removePod(podId);
});

test("mappings that are no user namespace are refused before anything is made", async (t) => {
  const { crictl } = podvm();
  const refused = async (userns_options: object) => {
    const config = podvm().pod(security({ namespace_options: { userns_options } }));
    return crictl.fails("runp", await crictl.file(config));
  };
  const two = [...mappings(1000), ...mappings(2000)];
  t.regex(await refused({ mode: POD, uids: two, gids: two }), /exactly one mapping/);
  const late = [{ container_id: 1, host_id: 1000, length: SIZE }];
  t.regex(await refused({ mode: POD, uids: late, gids: late }), /container_id: wanted 0/);
  t.regex(await refused({ mode: CONTAINER }), /POD or NODE/);
  t.regex(await refused({ mode: TARGET }), /POD or NODE/);
  t.deepEqual(await crictl.pods(), []);
});

function fetched(url: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const request = get(url, { timeout: 2000 }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => {
        text += part;
      });
      response.on("end", () => resolve(text));
    });
    request.on("timeout", () => request.destroy());
    request.on("error", () => resolve(undefined));
  });
}
