/** Pods are machines of their own that share nothing but the network. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { busybox, containerConfig, random } from "../support/manifests.js";
import { processes } from "../support/node.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

test("two pods reach each other by address, and not each other's files", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  const secret = random(8);
  const server = await podvm().podWith({
    command: ["sh", "-c", `mkdir /www && echo ${secret} > /www/index.html && exec httpd -f -p 8080 -h /www`],
  });
  const client = await podvm().podWith();
  const { network } = await crictl.inspectp(server.podId);
  const fetched = await until("the other pod's web server answers", 30_000, () =>
    crictl.exec(client.id, "timeout", "5", "wget", "-q", "-O", "-", `http://${network.ip}:8080/`),
  );
  t.is(fetched, secret);
  const v6 = network.additionalIps.find(({ ip }) => ip.includes(":"))?.ip;
  t.is(await crictl.exec(client.id, "timeout", "5", "wget", "-q", "-O", "-", `http://[${v6}]:8080/`), secret);

  // the same image, one device: what one pod wrote must show nowhere else
  t.is(await crictl.exec(client.id, "sh", "-c", "ls -d /www 2>/dev/null || echo none"), "none");
  t.false((await crictl.exec(client.id, "ps")).includes("httpd"));
  t.not(
    await crictl.exec(client.id, "cat", "/proc/sys/kernel/random/boot_id"),
    await crictl.exec(server.id, "cat", "/proc/sys/kernel/random/boot_id"),
  );
  t.is(await crictl.exec(client.id, "hostname"), client.config.hostname);
  await podvm().removeAllPods();
});

test("containers of one pod share its network and not their files", async (t) => {
  const { crictl } = podvm();
  const { config, podId, id } = await podvm().podWith({
    command: ["sh", "-c", "mkdir /www && echo shared > /www/index.html && exec httpd -f -p 8081 -h /www"],
  });
  const second = await crictl.start(podId, containerConfig(), config);
  const answer = await until("localhost answers", 30_000, () =>
    crictl.exec(second, "timeout", "5", "wget", "-q", "-O", "-", "http://127.0.0.1:8081/"),
  );
  t.is(answer, "shared");
  t.is(await crictl.exec(second, "sh", "-c", "ls -d /www 2>/dev/null || echo none"), "none");
  await crictl.exec(id, "touch", "/only-here");
  t.is(await crictl.exec(second, "sh", "-c", "ls /only-here 2>/dev/null || echo none"), "none");
  await podvm().removePod(podId);
});

test("the VMM runs as a user of its own, without capabilities, in the pod's cgroup", async (t) => {
  const { podId } = await podvm().podWith();
  const vmms = processes(podvm()).filter(({ uid }) => uid >= podvm().uidBase);
  t.true(vmms.length >= 1, "no process runs with a uid of the configured range");
  for (const { pid } of vmms) {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    t.regex(status, /^CapEff:\s+0000000000000000$/m);
    t.regex(status, /^CapBnd:\s+0000000000000000$/m);
    t.regex(status, /^NoNewPrivs:\s+1$/m);
    t.true(readFileSync(`/proc/${pid}/cgroup`, "utf8").includes(podvm().tag));
  }
  t.true(
    vmms.every(({ pid }) => !existsSync(`/proc/${pid}/root/etc/passwd`)),
    "the VMM sees the host's files",
  );
  await podvm().removePod(podId);
});

test("two pods never run as the same user", async (t) => {
  const first = await podvm().podWith();
  const second = await podvm().podWith();
  const uids = new Set(
    processes(podvm())
      .map(({ uid }) => uid)
      .filter((uid) => uid >= podvm().uidBase),
  );
  t.is(uids.size, 2);
  await podvm().removePod(first.podId);
  await podvm().removePod(second.podId);
});

test("seccomp: the default profile and one of the node filter in the guest; without a profile nothing does", async (t) => {
  const { crictl } = podvm();
  const { config, podId, id } = await podvm().podWith();
  const modeOf = (container: string) => crictl.exec(container, "sh", "-c", "grep ^Seccomp: /proc/self/status");
  t.regex(await modeOf(id), /\s0$/);

  const filtered = (seccomp: object) => containerConfig({ linux: { security_context: { seccomp } } });
  const standard = await crictl.start(podId, filtered({ profile_type: 0 }), config);
  t.regex(await modeOf(standard), /\s2$/);
  t.regex(await crictl.exec(standard, "sh", "-c", "unshare -U true 2>&1 || true"), /not permitted/);

  const localhostRef = join(podvm().dir, "profile.json");
  const rules = [{ names: ["chmod", "fchmodat", "fchmodat2"], action: "SCMP_ACT_ERRNO" }];
  writeFileSync(localhostRef, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: rules }));
  const own = await crictl.start(podId, filtered({ profile_type: 2, localhost_ref: localhostRef }), config);
  t.regex(await crictl.exec(own, "sh", "-c", "chmod 700 /tmp 2>&1 || true"), /not permitted/);
  await podvm().removePod(podId);
});
