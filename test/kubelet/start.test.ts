/** How pods start: init containers, sidecars, and probes of every kind. */
import { containerIfThere, containerOf, type KubePod } from "../support/kubelet.js";
import { grpcHealth, kubeletSuite } from "../support/kubelet-suite.js";
import { busybox } from "../support/manifests.js";
import { until } from "../support/until.js";

const { test, kubelet } = kubeletSuite({ grpc: true });

const sh = (name: string, script: string, more: Record<string, unknown> = {}) => ({
  name,
  image: busybox,
  command: ["sh", "-c", script],
  ...more,
});
const state = (pod: KubePod, name: string) => containerIfThere(pod, name)?.state;
const ready = (pod: KubePod, name: string) => containerIfThere(pod, name)?.ready === true;
/** Often, but with time for a command in an emulated guest. */
const soon = { periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20 };

test("init containers run one after another, each to its end, before the others start", async (t) => {
  const name = await kubelet().apply({
    spec: {
      initContainers: [sh("first", "sleep 1; echo one"), sh("second", "echo two")],
      containers: [sh("main", "echo main; exec sleep 3600")],
    },
  });
  const pod = await kubelet().ready(name);
  const first = containerOf(pod, "first").state.terminated;
  const second = containerOf(pod, "second").state.terminated;
  t.is(first?.reason, "Completed");
  t.is(second?.exitCode, 0);
  t.true((first?.finishedAt ?? "") <= (second?.startedAt ?? ""), JSON.stringify(pod.status));
  t.true((second?.finishedAt ?? "") <= (containerOf(pod, "main").state.running?.startedAt ?? ""));
  t.is(await kubelet().logs(name, "first"), "one\n");
  await until("the main log", 20_000, async () => (await kubelet().logs(name, "main")) === "main\n");
  await kubelet().remove(name);
});

test("a pod whose init container fails for good starts nothing else", async (t) => {
  const name = await kubelet().apply({
    spec: {
      restartPolicy: "Never",
      initContainers: [sh("bad", "echo why >&2; exit 4")],
      containers: [sh("main", "exec sleep 3600")],
    },
  });
  const pod = await kubelet().pod(name, "failed", ({ status }) => status.phase === "Failed");
  t.is(containerOf(pod, "bad").state.terminated?.exitCode, 4);
  t.is(containerOf(pod, "bad").state.terminated?.reason, "Error");
  t.is(containerOf(pod, "main").state.waiting?.reason, "PodInitializing");
  await kubelet().remove(name);
});

test("a sidecar starts before the others, lives beside them, and ends after them", async (t) => {
  const name = await kubelet().apply({
    spec: {
      restartPolicy: "Never",
      initContainers: [
        sh("side", "trap 'echo ends; exit 0' TERM; echo begins; touch /up; while true; do sleep 0.2; done", {
          restartPolicy: "Always",
          startupProbe: { exec: { command: ["test", "-f", "/up"] }, ...soon, failureThreshold: 30 },
        }),
      ],
      containers: [sh("main", "while [ ! -e /go ]; do sleep 0.2; done")],
    },
  });
  const pod = await kubelet().ready(name);
  const begun = containerOf(pod, "main").state.running?.startedAt ?? "";
  t.true((containerOf(pod, "side").state.running?.startedAt ?? "~") <= begun, JSON.stringify(pod.status));
  await kubelet().exec(name, "main", "touch /go");
  const done = await kubelet().pod(name, "succeeded", ({ status }) => status.phase === "Succeeded");
  const [main, side] = ["main", "side"].map((one) => containerOf(done, one).state.terminated);
  t.is(main?.exitCode, 0);
  t.is(side?.exitCode, 0);
  t.true((main?.finishedAt ?? "~") <= (side?.finishedAt ?? ""));
  await kubelet().remove(name);
});

test("probes by HTTP, TCP, gRPC and command tell who is ready, and again when that changes", async (t) => {
  const web = "mkdir /www; echo ok >/www/healthy; exec httpd -f -p 8080 -h /www";
  const readiness = (probe: Record<string, unknown>) => ({ readinessProbe: { ...probe, ...soon } });
  const name = await kubelet().apply({
    spec: {
      containers: [
        sh("http", web, readiness({ httpGet: { path: "/healthy", port: 8080 } })),
        sh("tcp", "exec sleep 3600", readiness({ tcpSocket: { port: 9090 } })),
        sh("command", "exec sleep 3600", readiness({ exec: { command: ["test", "-f", "/healthy"] } })),
        { name: "grpc", image: grpcHealth, ...readiness({ grpc: { port: 5000 } }) },
      ],
    },
  });
  await kubelet().pod(name, "HTTP and gRPC ready, the others not", (pod) => {
    const [http, tcp, command, grpc] = ["http", "tcp", "command", "grpc"].map((one) => ready(pod, one));
    return http === true && grpc === true && !tcp && !command;
  });
  await kubelet().exec(name, "tcp", "httpd -p 9090");
  await kubelet().exec(name, "command", "touch /healthy");
  await kubelet().ready(name);
  await kubelet().exec(name, "http", "rm /www/healthy");
  await kubelet().pod(name, "HTTP no longer ready", (pod) => !ready(pod, "http") && ready(pod, "tcp"));
  const pod = await kubelet().pod(name, "all run", () => true);
  for (const one of pod.status.containerStatuses ?? []) t.is(one.restartCount, 0, "readiness restarts nothing");
  await kubelet().remove(name);
});

test("liveness restarts the container that fails, and that alone", async (t) => {
  const live = (probe: Record<string, unknown>) => ({ livenessProbe: { ...probe, ...soon, failureThreshold: 2 } });
  const name = await kubelet().apply({
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [
        sh("fails", "touch /alive; exec sleep 3600", live({ exec: { command: ["test", "-f", "/alive"] } })),
        { name: "lives", image: grpcHealth, ...live({ grpc: { port: 5000 }, initialDelaySeconds: 3 }) },
      ],
    },
  });
  await kubelet().ready(name);
  await kubelet().exec(name, "fails", "rm /alive");
  const pod = await kubelet().pod(
    name,
    "restarted",
    (found) => containerIfThere(found, "fails")?.restartCount === 1 && state(found, "fails")?.running !== undefined,
  );
  t.is(containerOf(pod, "fails").lastState.terminated?.exitCode, 137);
  t.is(containerOf(pod, "lives").restartCount, 0);
  await kubelet().remove(name);
});

test("a startup probe holds the others back, and kills what does not start", async (t) => {
  const started = { exec: { command: ["test", "-f", "/started"] }, ...soon };
  const startup = (failureThreshold: number) => ({
    startupProbe: { ...started, failureThreshold },
    livenessProbe: started,
  });
  const name = await kubelet().apply({
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [
        sh("slow", "sleep 6; touch /started; exec sleep 3600", startup(60)),
        sh("never", "exec sleep 3600", startup(4)),
      ],
    },
  });
  const pod = await kubelet().pod(
    name,
    "one started, the other restarted",
    (found) => ready(found, "slow") && (containerIfThere(found, "never")?.restartCount ?? 0) > 0,
  );
  t.true(containerOf(pod, "slow").started);
  t.is(containerOf(pod, "slow").restartCount, 0, "liveness did not count while it started");
  await kubelet().remove(name);
});
