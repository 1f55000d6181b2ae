/** Volumes that a kubelet without an API server can give: emptyDir, downward API, projected, hostPath; and the files that every pod has. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { kubeletSuite } from "../support/kubelet-suite.js";
import { busybox } from "../support/manifests.js";
import { until } from "../support/until.js";

const { test, podvm, kubelet } = kubeletSuite();

const sh = (name: string, script: string, more: Record<string, unknown> = {}) => ({
  name,
  image: busybox,
  command: ["sh", "-c", script],
  ...more,
});
const mount = (name: string, mountPath: string, more: Record<string, unknown> = {}) => ({ name, mountPath, ...more });

test("emptyDir on disk and in memory: shared by the containers, outliving their restarts", async (t) => {
  const volumeMounts = [mount("disk", "/disk"), mount("memory", "/memory")];
  const name = await kubelet().apply({
    spec: {
      securityContext: { fsGroup: 2345 },
      initContainers: [sh("init", "echo init >/disk/from; echo init >/memory/from", { volumeMounts })],
      containers: [
        sh("writes", "echo more >>/disk/from; while [ ! -e /disk/end ]; do sleep 0.2; done", { volumeMounts }),
        sh("reads", "exec sleep 3600", { volumeMounts }),
      ],
      volumes: [
        { name: "disk", emptyDir: {} },
        { name: "memory", emptyDir: { medium: "Memory", sizeLimit: "8Mi" } },
      ],
    },
  });
  await kubelet().ready(name);
  const read = (...command: string[]) => kubelet().exec(name, "reads", ...command);
  await until("the second line", 20_000, async () => (await read("cat", "/disk/from")) === "init\nmore");
  t.is(await read("cat", "/memory/from"), "init");
  t.is(await read("stat", "-c", "%g", "/disk"), "2345");
  t.is(await read("stat", "-f", "-c", "%T", "/memory"), "tmpfs");
  const kib = Number((await read("df", "-k", "/memory")).split("\n").at(-1)?.split(/\s+/)[1]);
  t.is(kib, 8192);
  await read("touch", "/disk/end");
  await kubelet().pod(name, "restarted", ({ status }) =>
    (status.containerStatuses ?? []).some((one) => one.name === "writes" && one.restartCount > 0),
  );
  t.regex(await read("cat", "/disk/from"), /^init\nmore\n/, "the volume is the pod's, not the container's");
  await kubelet().remove(name);
});

// A projected volume needs an API server even for what the pod alone tells (kubelet: "kube client is not configured"): the cluster's test has one.
test("downward API: as files, with a mode and in a folder below, and as variables", async (t) => {
  const item = (path: string, fieldPath: string) => ({ path, fieldRef: { fieldPath } });
  const resource = { path: "cpu", resourceFieldRef: { containerName: "c", resource: "limits.cpu", divisor: "1m" } };
  const name = await kubelet().apply({
    labels: { colour: "green" },
    annotations: { "example.com/note": "a\nb" },
    spec: {
      containers: [
        sh("c", "exec sleep 3600", {
          resources: { limits: { cpu: "1", memory: "64Mi" } },
          env: [{ name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } }],
          volumeMounts: [mount("down", "/down"), mount("deep", "/in", { readOnly: true })],
        }),
      ],
      volumes: [
        { name: "down", downwardAPI: { items: [item("labels", "metadata.labels"), resource] } },
        { name: "deep", downwardAPI: { defaultMode: 0o440, items: [item("deep/name", "metadata.name")] } },
      ],
    },
  });
  const pod = await kubelet().ready(name);
  const read = (...command: string[]) => kubelet().exec(name, "c", ...command);
  t.is(await read("cat", "/down/labels"), 'colour="green"');
  t.is(await read("cat", "/down/cpu"), "1000");
  t.is(await read("cat", "/in/deep/name"), kubelet().full(name));
  t.is(await read("stat", "-L", "-c", "%a", "/in/deep/name"), "440");
  t.is(await read("readlink", "/in/deep"), "..data/deep");
  const environment = (await read("cat", "/proc/1/environ")).split("\0");
  t.true(environment.includes(`POD_IP=${pod.status.podIP}`), environment.join(" "));
  await kubelet().remove(name);
});

test("hostPath: live both ways, read-only, one file, sub-paths", async (t) => {
  const host = join(podvm().dir, "host");
  await mkdir(join(host, "sub"), { recursive: true });
  await writeFile(join(host, "sub/file"), "sub\n");
  await writeFile(join(host, "single"), "single\n");
  const name = await kubelet().apply({
    spec: {
      containers: [
        sh("c", "exec sleep 3600", {
          env: [{ name: "PART", value: "sub" }],
          volumeMounts: [
            mount("host", "/host"),
            mount("host", "/read", { readOnly: true }),
            mount("host", "/part", { subPath: "sub" }),
            mount("host", "/expr", { subPathExpr: "$(PART)/file" }),
            mount("single", "/etc/single"),
            mount("made", "/made"),
          ],
        }),
      ],
      volumes: [
        { name: "host", hostPath: { path: host, type: "Directory" } },
        { name: "single", hostPath: { path: join(host, "single"), type: "File" } },
        { name: "made", hostPath: { path: join(podvm().dir, "made"), type: "DirectoryOrCreate" } },
      ],
    },
  });
  await kubelet().ready(name);
  t.is(await kubelet().exec(name, "c", "cat", "/part/file", "/expr", "/etc/single"), "sub\nsub\nsingle");
  await kubelet().exec(name, "c", "cp", "/etc/single", "/host/written");
  t.is(await readFile(join(host, "written"), "utf8"), "single\n");
  await writeFile(join(host, "later"), "later\n");
  await until(
    "the guest sees it",
    20_000,
    async () => (await kubelet().exec(name, "c", "cat", "/read/later")) === "later",
  );
  await t.throwsAsync(kubelet().exec(name, "c", "touch", "/read/no"));
  await kubelet().exec(name, "c", "touch", "/made/here");
  t.is(await readFile(join(podvm().dir, "made/here"), "utf8"), "");
  await kubelet().remove(name);
});

test("every pod has its name, its hosts and kubelet's resolver", async (t) => {
  const name = await kubelet().apply({
    spec: {
      dnsPolicy: "Default",
      hostAliases: [{ ip: "192.0.2.7", hostnames: ["alias.test"] }],
      containers: [sh("c", "exec sleep 3600")],
    },
  });
  const pod = await kubelet().ready(name);
  const read = (...command: string[]) => kubelet().exec(name, "c", ...command);
  t.is(await read("hostname"), kubelet().full(name));
  const hosts = await read("cat", "/etc/hosts");
  t.true(hosts.includes(`${pod.status.podIP}\t${kubelet().full(name)}`), hosts);
  t.true(hosts.includes("192.0.2.7\talias.test"), hosts);
  const resolver = await read("cat", "/etc/resolv.conf");
  t.regex(resolver, /nameserver 192\.0\.2\.53/);
  t.regex(resolver, /search example\.test/);
  await kubelet().remove(name);
});
