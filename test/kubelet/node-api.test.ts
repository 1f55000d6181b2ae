/** What kubelet's own API offers of pods in VMs: logs, exec, attach, port-forward, figures; and host ports. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { kubeletSuite } from "../support/kubelet-suite.js";
import { busybox } from "../support/manifests.js";
import { freePort } from "../support/registry.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const { test, podvm, kubelet } = kubeletSuite({
  kubelet: { containerLogMaxSize: "20Ki", containerLogMaxFiles: 3, containerLogMonitorInterval: "3s" },
});

const sh = (name: string, script: string, more: Record<string, unknown> = {}) => ({
  name,
  image: busybox,
  command: ["sh", "-c", script],
  ...more,
});

interface Execed {
  stdout: { head: string; bytes: number };
  stderr: { head: string };
  code: number;
  error: string;
}

/** client-go against kubelet's API, which passes the stream on to PodVM. */
async function client<T>(...args: string[]): Promise<T> {
  const result = await run([tool("stream-client"), ...args], { deadlineMs: 120_000 });
  return JSON.parse(result.stdout) as T;
}

const query = (...command: string[]) => command.map((word) => `command=${encodeURIComponent(word)}`).join("&");

let name = "";
const path = (verb: string, container: string) =>
  `${kubelet().url}/${verb}/default/${kubelet().full(name)}/${container}`;

test("a pod to look at", async (t) => {
  name = await kubelet().apply({
    spec: {
      containers: [
        sh("talks", "echo one; sleep 1; echo two >&2; sleep 1; echo three; exec sleep 3600"),
        sh("reads", "while read line; do echo got $line; done; exec sleep 3600", { stdin: true }),
        sh("serves", "exec nc -ll -p 7000 -e cat"),
      ],
    },
  });
  const pod = await kubelet().ready(name);
  t.truthy(pod.status.podIP);
  t.is(pod.status.podIPs?.length, 2, "both families");
});

test("logs: whole, the end of them, followed", async (t) => {
  await until("all lines are in the log", 20_000, async () => {
    return (await kubelet().logs(name, "talks")) === "one\ntwo\nthree\n";
  });
  t.is(await kubelet().logs(name, "talks", "?tailLines=1"), "three\n");
  t.regex(await kubelet().logs(name, "talks", "?timestamps=true&tailLines=1"), /^\d{4}-\d\d-\d\dT\S+ three\n$/);
});

for (const proto of ["spdy", "ws"]) {
  test(`exec (${proto}): input, both outputs, exit code`, async (t) => {
    const command = query("sh", "-c", "cat; echo err >&2; exit 7");
    const url = `${path("exec", "talks")}?input=1&output=1&error=1&${command}`;
    const done = await client<Execed>("exec", "-proto", proto, "-stdin", "hello", "-url", url);
    t.is(done.stdout.head, "hello", done.error);
    t.is(done.stderr.head, "err\n");
    t.is(done.code, 7);
  });
}

test("attach: what is typed reaches the process", async (t) => {
  const url = `${path("attach", "reads")}?input=1&output=1&error=1`;
  // The stream stays open: the process has more to say. The client ends it.
  await client<Execed>("exec", "-stdin", "word\n", "-timeout", "5s", "-url", url);
  await until("the answer is in the log", 20_000, async () => (await kubelet().logs(name, "reads")) === "got word\n");
  t.pass();
});

test("port-forward: three connections at once to an echo server of the pod", async (t) => {
  const url = `${kubelet().url}/portForward/default/${kubelet().full(name)}`;
  const done = await client<{ good: number; errors: string[] | null; said: string }>(
    ..."forward -port 7000 -connections 3 -bytes 100000 -url".split(" "),
    url,
  );
  t.is(done.good, 3, JSON.stringify(done));
});

interface Summary {
  node: { runtime: { imageFs: { usedBytes: number } } };
  pods: {
    podRef: { name: string };
    cpu?: { usageCoreNanoSeconds?: number };
    memory?: { workingSetBytes?: number };
    network?: { rxBytes?: number };
    containers: { name: string; cpu?: { usageCoreNanoSeconds?: number }; memory?: { workingSetBytes?: number } }[];
  }[];
}

test("/stats/summary has the pod, its containers and the images", async (t) => {
  const found = await until("figures of every container", 60_000, async () => {
    const summary = JSON.parse((await kubelet().get("/stats/summary")).body) as Summary;
    const pod = summary.pods.find(({ podRef }) => podRef.name === kubelet().full(name));
    const all = pod?.containers.every(({ cpu, memory }) => cpu?.usageCoreNanoSeconds && memory?.workingSetBytes);
    return pod?.containers.length === 3 && all && pod.memory?.workingSetBytes ? { summary, pod } : undefined;
  });
  t.true(found.summary.node.runtime.imageFs.usedBytes > 1e6);
  for (const { memory } of found.pod.containers) t.true((memory?.workingSetBytes ?? 0) < 200e6);
  await kubelet().remove(name);
});

test("a host port leads to the container", async (t) => {
  const hostPort = await freePort();
  const pod = await kubelet().apply({
    spec: {
      containers: [
        sh("web", "mkdir /www; echo served >/www/index.html; exec httpd -f -p 8080 -h /www", {
          ports: [{ containerPort: 8080, hostPort }],
          readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
        }),
      ],
    },
  });
  await kubelet().ready(pod);
  t.is(await (await fetch(`http://127.0.0.1:${hostPort}/`)).text(), "served\n");
  await kubelet().remove(pod);
});

test("logs are rotated, and none of the newest lines is lost", async (t) => {
  const line = "x".repeat(100);
  const pod = await kubelet().apply({
    spec: { containers: [sh("c", `i=0; while true; do i=$((i+1)); echo $i ${line}; sleep 0.02; done`)] },
  });
  const { metadata } = await kubelet().ready(pod);
  const folder = join(podvm().logDir, `default_${metadata.name}_${metadata.uid}`, "c");
  await until("rotated twice", 90_000, async () => (await readdir(folder)).length >= 3);
  t.true((await readdir(folder)).length <= 4, "no more than the configured files, and one under way");
  const seen = (await kubelet().logs(pod, "c"))
    .trimEnd()
    .split("\n")
    .map((text) => Number(text.split(" ")[0]));
  for (let i = 1; i < seen.length; i++)
    if (seen[i] !== (seen[i - 1] ?? 0) + 1) t.fail(`${seen[i - 1]} then ${seen[i]}`);
  const newest = seen.at(-1) ?? 0;
  await until("newer lines", 20_000, async () => {
    const last = (await kubelet().logs(pod, "c", "?tailLines=1")).split(" ")[0];
    return Number(last) > newest;
  });
  await kubelet().remove(pod);
});
