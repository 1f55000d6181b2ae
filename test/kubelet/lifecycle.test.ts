/** How containers end: restarts and back-off, grace, hooks, memory, last words. */
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { containerIfThere, containerOf, type KubePod } from "../support/kubelet.js";
import { kubeletSuite } from "../support/kubelet-suite.js";
import { busybox } from "../support/manifests.js";

const { test, podvm, kubelet } = kubeletSuite();

const sh = (name: string, script: string, more: Record<string, unknown> = {}) => ({
  name,
  image: busybox,
  command: ["sh", "-c", script],
  ...more,
});

/** The file that a container's output went to, by its status. */
async function logFile(pod: KubePod, container: string): Promise<string> {
  const { name, namespace, uid } = pod.metadata;
  const { restartCount } = containerOf(pod, container);
  return readFile(join(podvm().logDir, `${namespace}_${name}_${uid}`, container, `${restartCount}.log`), "utf8");
}

test("a container that ends is started again, later each time", async (t) => {
  const name = await kubelet().apply({ spec: { containers: [sh("c", "echo once; exit 3")] } });
  const waits = await kubelet().pod(
    name,
    "waits before its third start",
    (pod) => {
      const status = containerIfThere(pod, "c");
      return status?.restartCount === 2 && status.state.waiting?.reason === "CrashLoopBackOff";
    },
    180_000,
  );
  const { terminated } = containerOf(waits, "c").lastState;
  t.is(terminated?.exitCode, 3);
  t.is(terminated?.reason, "Error");
  t.is(await kubelet().logs(name, "c", "?previous=true"), "once\n");
  await kubelet().remove(name);
});

test("restart policies: OnFailure restarts failures only, Never nothing", async (t) => {
  const failing = sh("fails-once", "exit 1");
  const never = await kubelet().apply({
    spec: { restartPolicy: "Never", containers: [failing, sh("ends", "exit 0")] },
  });
  const ended = await kubelet().pod(never, "failed", ({ status }) => status.phase === "Failed");
  t.is(containerOf(ended, "fails-once").restartCount, 0);
  t.is(containerOf(ended, "ends").state.terminated?.reason, "Completed");
  await kubelet().remove(never);

  const name = await kubelet().apply({
    spec: { restartPolicy: "OnFailure", containers: [failing, sh("ends", "exit 0")] },
  });
  const pod = await kubelet().pod(
    name,
    "restarted",
    (found) => (containerIfThere(found, "fails-once")?.restartCount ?? 0) > 0,
  );
  t.is(containerOf(pod, "ends").restartCount, 0);
  await kubelet().remove(name);
});

test("at its end a pod gets its preStop hooks, then TERM, then its grace", async (t) => {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    response.end("ok");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const name = await kubelet().apply({
    spec: {
      terminationGracePeriodSeconds: 30,
      containers: [
        sh("exec", "trap 'echo term; sleep 1; echo bye; exit 9' TERM; echo up; while true; do sleep 0.1; done", {
          lifecycle: { preStop: { exec: { command: ["sh", "-c", "echo hook >/proc/1/fd/1"] } } },
        }),
        sh("http", "trap 'exit 0' TERM; while true; do sleep 0.1; done", {
          lifecycle: { preStop: { httpGet: { host: "127.0.0.1", port, path: "/pre-stop" } } },
        }),
      ],
    },
  });
  const pod = await kubelet().ready(name);
  await kubelet().stopPod(name);
  const lines = (await logFile(pod, "exec")).split("\n").map((line) => line.split(" ").slice(3).join(" "));
  t.deepEqual(lines.filter(Boolean), ["up", "hook", "term", "bye"]);
  t.deepEqual(asked, ["/pre-stop"]);
  await kubelet().remove(name);
});

test("postStart comes before the container is ready; a hook that fails kills it", async (t) => {
  const hook = (command: string) => ({ lifecycle: { postStart: { exec: { command: ["sh", "-c", command] } } } });
  const name = await kubelet().apply({
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [sh("good", "exec sleep 3600", hook("touch /hooked")), sh("bad", "exec sleep 3600", hook("exit 1"))],
    },
  });
  const pod = await kubelet().pod(name, "the bad one was restarted", (found) => {
    return containerIfThere(found, "good")?.ready === true && (containerIfThere(found, "bad")?.restartCount ?? 0) > 0;
  });
  t.is(await kubelet().exec(name, "good", "ls /hooked"), "/hooked");
  t.is(containerOf(pod, "good").restartCount, 0);
  await kubelet().remove(name);
});

test("a container that does not hear TERM is killed when its grace is over", async (t) => {
  const name = await kubelet().apply({
    spec: {
      terminationGracePeriodSeconds: 2,
      containers: [sh("deaf", "trap '' TERM; while true; do sleep 0.1; done")],
    },
  });
  const pod = await kubelet().ready(name);
  const began = Date.now();
  await kubelet().stopPod(name);
  t.true(Date.now() - began >= 2000);
  const id = containerOf(pod, "deaf").containerID.replace(/^.*:\/\//, "");
  t.is((await podvm().crictl.inspect(id)).exitCode, 137);
  await kubelet().remove(name);
});

test("too much memory: OOMKilled, and restarted", async (t) => {
  const name = await kubelet().apply({
    spec: {
      restartPolicy: "Never",
      containers: [
        sh("eats", "dd if=/dev/zero of=/dev/null bs=100M", {
          resources: { requests: { memory: "64Mi" }, limits: { memory: "64Mi" } },
        }),
      ],
    },
  });
  const pod = await kubelet().pod(name, "failed", ({ status }) => status.phase === "Failed");
  const ended = containerOf(pod, "eats").state.terminated;
  t.is(ended?.reason, "OOMKilled");
  t.is(ended?.exitCode, 137);
  await kubelet().remove(name);
});

test("last words: from the termination log, from a path of its own, from the log after an error", async (t) => {
  const words = { terminationMessagePath: "/tmp/words" };
  const fallback = { terminationMessagePolicy: "FallbackToLogsOnError" };
  const name = await kubelet().apply({
    spec: {
      restartPolicy: "Never",
      containers: [
        sh("file", "printf 'the file' >/dev/termination-log; exit 1"),
        sh("own", "printf 'my own' >/tmp/words", words),
        sh("long", "head -c 5000 /dev/zero | tr '\\0' x >/dev/termination-log"),
        sh("log", "echo first; echo last; exit 1", fallback),
        sh("well", "echo not this", fallback),
      ],
    },
  });
  const pod = await kubelet().pod(name, "ended", ({ status }) => status.phase === "Failed");
  const message = (container: string) => containerOf(pod, container).state.terminated?.message;
  t.is(message("file"), "the file");
  t.is(message("own"), "my own");
  t.is(message("long"), "x".repeat(Math.floor((12 * 1024) / 5)), "kubelet's bound: 12 KiB for all of a pod");
  t.is(message("log"), "first\nlast\n");
  t.is(message("well"), undefined);
  await kubelet().remove(name);
});
