/** A whole Kubernetes, used as its users do: with kubectl. */
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import anyTest, { type TestFn } from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { run } from "../../src/host/run.js";
import { endChild } from "../support/child.js";
import { TestImages } from "../support/images.js";
import { busybox, random } from "../support/manifests.js";
import { freePort } from "../support/registry.js";
import { readSysctls } from "../support/sysctls.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";
import { Cluster } from "./cluster.js";
import { kubeconfig, type Ports } from "./options.js";
import { logTail } from "./processes.js";
import { kubernetesChains } from "./rules.js";

const test = anyTest.serial as unknown as TestFn;
const tag = `podvmt${random(3)}`;
const dir = join("/var/tmp", tag);
const sysctls = readSysctls();
let images: TestImages;
let cluster: Cluster;
let folder = "";

anyTest.before(async (t) => {
  t.timeout(600_000);
  folder = await mkdtemp(join(tmpdir(), "podvm-cluster-"));
  images = await TestImages.served("busybox");
  const names = [
    "etcd",
    "etcdPeer",
    "api",
    "controllers",
    "scheduler",
    "kubelet",
    "kubeletHealth",
    "proxyHealth",
    "proxyMetrics",
  ];
  const ports: Record<string, number> = {};
  for (const name of names) ports[name] = await freePort();
  const net = `10.${randomInt(100, 250)}`;
  const part = randomInt(0, 80) * 3;
  cluster = await Cluster.up(
    {
      dir,
      runDir: join("/run", tag),
      node: tag,
      nodeIp: `${net}.${part}.1`,
      link: `c${tag.slice(6)}`,
      serviceCidr: `${net}.${part + 1}.0/24`,
      podCidr: `${net}.${part + 2}.0/24`,
      podBridge: `b${tag.slice(6)}`,
      cgroupRoot: "/",
      mirror: images.url,
      ports: ports as unknown as Ports,
    },
    (what) => t.log(what),
  );
});

anyTest.after.always(async () => {
  await (await Cluster.found(dir))?.down();
  await images?.close();
  if (folder) await rm(folder, { recursive: true });
});

anyTest.afterEach.always(async (t) => {
  if (t.passed || !existsSync(dir)) return;
  for (const name of ["podvm", "kubelet", "proxy"]) t.log(`end of ${name}'s log:\n${logTail(dir, name, 25)}`);
  t.log((await cluster.attempt(["get", "events,pods", "-A", "-o", "wide"])).stdout);
});

const kubectl = (...args: string[]) => cluster.kubectl(...args);
const ready = async (what: string) => {
  const { code, stderr } = await cluster.attempt(["wait", "--for=condition=Ready", what, "--timeout=170s"], 180_000);
  if (code !== 0) throw new Error(`${what}: ${stderr}`);
};
const apply = async (...objects: object[]) => {
  const list = { apiVersion: "v1", kind: "List", items: objects };
  const path = join(folder, `${random()}.json`);
  await writeFile(path, JSON.stringify(list));
  await kubectl("apply", "-f", path);
};
const gone = (...what: string[]) => kubectl("delete", "--timeout=120s", "--grace-period=1", ...what);

test("the node is Ready and says what its runtime is", async (t) => {
  const node = await kubectl("get", "node", tag, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}");
  t.regex(node, /^podvm:\/\/\d/);
});

test("kubectl run, logs, exec, attach", async (t) => {
  await kubectl("run", "one", `--image=${busybox}`, "--", "sh", "-c", "echo begun; exec sleep 3600");
  await ready("pod/one");
  await until("the log", 20_000, async () => (await kubectl("logs", "one")) === "begun");
  const kernel = await kubectl("exec", "one", "--", "uname", "-r");
  t.not(kernel, (await readFile("/proc/sys/kernel/osrelease", "utf8")).trim(), "a kernel of its own");
  const failed = await cluster.attempt(["exec", "one", "--", "sh", "-c", "exit 5"]);
  t.is(failed.code, 5);
  const piped = await cluster.attempt(["exec", "-i", "one", "--", "cat"], 60_000, "through standard input");
  t.is(piped.stdout, "through standard input");
  t.is(await kubectl("exec", "one", "--", "hostname"), "one");
  t.regex(await kubectl("exec", "one", "--", "cat", "/etc/hosts"), /\sone\n?/);

  const options = ["--image", busybox, "--restart=Never", "-i", "--rm", "--quiet"];
  const attached = await cluster.attempt(
    ["run", "two", ...options, "--", "sh", "-c", "while read line; do echo got $line; done"],
    170_000,
    "a\nb\n",
  );
  t.is(attached.stdout, "got a\ngot b\n", attached.stderr);
});

test("kubectl cp, both ways", async (t) => {
  const [there, back] = [join(folder, "there"), join(folder, "back")];
  const text = random(50_000);
  await writeFile(there, text);
  await kubectl("cp", there, "one:/tmp/copied");
  await kubectl("cp", "one:/tmp/copied", back);
  t.true((await readFile(back, "utf8")) === text);
});

test("kubectl port-forward reaches the pod's own loopback", async (t) => {
  await kubectl("exec", "one", "--", "sh", "-c", "mkdir /www; echo page >/www/index.html");
  await kubectl("exec", "one", "--", "httpd", "-p", "127.0.0.1:8080", "-h", "/www");
  const child = spawn(
    tool("kubectl"),
    [`--kubeconfig=${kubeconfig({ dir }, "admin")}`, "port-forward", "pod/one", ":8080"],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  t.teardown(() => endChild(child));
  let said = "";
  child.stdout.on("data", (data: Buffer) => {
    said += data.toString();
  });
  const port = await until("a local port", 30_000, () => /127\.0\.0\.1:(\d+) ->/.exec(said)?.[1]);
  t.is(await (await fetch(`http://127.0.0.1:${port}/`)).text(), "page\n");
});

test("a Deployment behind a Service: from a pod and from the node; scaled, replaced", async (t) => {
  const labels = { app: "web" };
  const web = (text: string) => ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "web" },
    spec: {
      replicas: 2,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              name: "web",
              image: busybox,
              command: [
                "sh",
                "-c",
                `mkdir /www; echo ${text} $(hostname) >/www/index.html; exec httpd -f -p 80 -h /www`,
              ],
              readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 1 },
            },
          ],
        },
      },
    },
  });
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "web" },
    spec: { selector: labels, ports: [{ port: 8000, targetPort: 80 }] },
  };
  await apply(web("first"), service);
  await kubectl("rollout", "status", "deployment/web", "--timeout=115s");
  const ip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");
  const inside = () => kubectl("exec", "one", "--", "wget", "-q", "-O", "-", `http://${ip}:8000/`);
  const seen = new Set<string>();
  await until("both pods have answered", 60_000, async () => seen.add(await inside()).size === 2);
  for (const answer of seen) t.regex(answer, /^first web-/);
  t.regex(await (await fetch(`http://${ip}:8000/`)).text(), /^first web-/, "from the node");

  await kubectl("scale", "deployment/web", "--replicas=1");
  await until("one pod is left", 60_000, async () => {
    return (await kubectl("get", "pods", "-l", "app=web", "-o", "name")).split("\n").length === 1;
  });
  await apply({ ...web("second"), spec: { ...web("second").spec, replicas: 1 } });
  await kubectl("rollout", "status", "deployment/web", "--timeout=115s");
  await until("the new pod answers", 30_000, async () => /^second web-/.test(await inside()));
  await gone("deployment/web", "service/web");
});

test("a Job runs to its end", async (t) => {
  await apply({
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name: "sum" },
    spec: {
      backoffLimit: 0,
      template: {
        spec: {
          restartPolicy: "Never",
          containers: [{ name: "sum", image: busybox, command: ["sh", "-c", "echo $((6 * 7))"] }],
        },
      },
    },
  });
  await kubectl("wait", "--for=condition=Complete", "job/sum", "--timeout=115s");
  t.is(await kubectl("logs", "job/sum"), "42");
  await gone("job/sum");
});

test("ConfigMap, Secret, token and downward API are there, and a changed ConfigMap arrives", async (t) => {
  await kubectl("create", "configmap", "settings", "--from-literal=key=old");
  await kubectl("create", "secret", "generic", "hidden", "--from-literal=word=xyzzy");
  await apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "reads", labels: { colour: "green" } },
    spec: {
      containers: [
        {
          name: "c",
          image: busybox,
          command: ["sleep", "3600"],
          env: [{ name: "WORD", valueFrom: { secretKeyRef: { name: "hidden", key: "word" } } }],
          volumeMounts: [
            { name: "settings", mountPath: "/settings" },
            { name: "info", mountPath: "/info" },
          ],
        },
      ],
      volumes: [
        { name: "settings", configMap: { name: "settings" } },
        {
          name: "info",
          projected: {
            sources: [
              { secret: { name: "hidden" } },
              { downwardAPI: { items: [{ path: "labels", fieldRef: { fieldPath: "metadata.labels" } }] } },
            ],
          },
        },
      ],
    },
  });
  await ready("pod/reads");
  const read = (path: string) => kubectl("exec", "reads", "--", "cat", path);
  t.is(await read("/settings/key"), "old");
  t.is(await read("/info/word"), "xyzzy");
  t.is(await read("/info/labels"), 'colour="green"');
  t.is(await kubectl("exec", "reads", "--", "sh", "-c", "echo $WORD"), "xyzzy");
  t.is((await read("/var/run/secrets/kubernetes.io/serviceaccount/token")).split(".").length, 3);
  await apply({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "settings" }, data: { key: "new" } });
  // Kubelet looks at what it mounted once a minute; an annotation makes it look now.
  await kubectl("annotate", "pod", "reads", "look=now");
  await until("the new value", 150_000, async () => (await read("/settings/key")) === "new");
  await gone("pod/reads", "configmap/settings", "secret/hidden");
});

test("RuntimeClasses: podvm, and Kata's name for it, with their overhead", async (t) => {
  for (const name of ["podvm", "kata"]) {
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        runtimeClassName: name,
        containers: [
          {
            name: "c",
            image: busybox,
            command: ["sleep", "3600"],
            resources: { requests: { cpu: "100m" }, limits: { memory: "64Mi", cpu: "1" } },
          },
        ],
      },
    };
    await apply(pod);
  }
  await ready("pod/podvm");
  await ready("pod/kata");
  for (const name of ["podvm", "kata"]) {
    t.truthy(await kubectl("get", "pod", name, "-o", "jsonpath={.spec.overhead.memory}"));
    t.regex(await kubectl("exec", name, "--", "uname", "-r"), /^\d/);
  }
  await gone("pod/podvm", "pod/kata");
});

test("a pod of the host's network: where the configuration allows it, a clear event elsewhere", async (t) => {
  const pod = (namespace: string) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "on-host", namespace },
    spec: {
      hostNetwork: true,
      terminationGracePeriodSeconds: 1,
      containers: [{ name: "c", image: busybox, command: ["sleep", "3600"] }],
    },
  });
  await apply(pod("kube-system"), pod("default"));
  await kubectl("-n", "kube-system", "wait", "--for=condition=Ready", "pod/on-host", "--timeout=110s");
  const inside = (...command: string[]) => kubectl("-n", "kube-system", "exec", "on-host", "--", ...command);
  t.is(await inside("uname", "-r"), (await readFile("/proc/sys/kernel/osrelease", "utf8")).trim());
  t.regex(await inside("cat", "/proc/net/dev"), new RegExp(`c${tag.slice(6)}:`), "the node's interfaces");
  await until("the event", 60_000, async () => {
    const events = await kubectl("get", "events", "--field-selector=involvedObject.name=on-host", "-o", "yaml");
    return events.includes("FailedCreatePodSandBox") && events.includes("host_namespaces");
  });
  await gone("pod/on-host");
  await gone("-n", "kube-system", "pod/on-host");
});

test("when it is taken down nothing is left", async (t) => {
  await cluster.down();
  t.false(existsSync(dir));
  t.deepEqual(await kubernetesChains(), []);
  for (const program of ["iptables-save", "ip6tables-save"]) {
    const { stdout } = await run([bundleTool({ bundle: join(tool("assets"), "bundle/current") }, program)]);
    t.false(stdout.includes(tag.slice(6)), stdout);
  }
  const links = (await run(["ip", "-o", "link", "show"])).stdout;
  t.false(links.includes(tag.slice(6)), links);
  t.false((await readFile("/proc/self/mountinfo", "utf8")).includes(tag));
  const processes = (await run(["ps", "-eo", "args"], { maxOutput: 16 << 20 })).stdout.split("\n");
  t.deepEqual(
    processes.filter((line) => line.includes(tag)),
    [],
  );
  t.deepEqual(readSysctls(), sysctls);
});
