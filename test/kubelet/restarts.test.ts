/** kubelet, PodVM, or both are killed and come back: pods live on, and no container is started a second time. */
import type { KubePod } from "../support/kubelet.js";
import { kubeletSuite } from "../support/kubelet-suite.js";
import { busybox } from "../support/manifests.js";
import { until } from "../support/until.js";

const { test, podvm, kubelet } = kubeletSuite();

let name = "";
let first: KubePod;

const ids = (pod: KubePod) => pod.status.containerStatuses?.map(({ containerID }) => containerID);
const restarts = (pod: KubePod) => pod.status.containerStatuses?.map(({ restartCount }) => restartCount);
const count = async () => Number(await kubelet().exec(name, "counts", "cat /count"));

test("a pod that counts", async (t) => {
  const script = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /count; echo line $i; sleep 0.2; done";
  name = await kubelet().apply({
    spec: {
      containers: [
        { name: "counts", image: busybox, command: ["sh", "-c", script] },
        {
          name: "probed",
          image: busybox,
          command: ["sleep", "3600"],
          livenessProbe: { exec: { command: ["true"] }, periodSeconds: 2, timeoutSeconds: 20 },
          readinessProbe: { exec: { command: ["true"] }, periodSeconds: 2, timeoutSeconds: 20 },
        },
      ],
    },
  });
  first = await kubelet().ready(name);
  t.deepEqual(restarts(first), [0, 0]);
});

async function livesOn(t: import("ava").ExecutionContext, before: number): Promise<void> {
  await until("the API reaches the pod", 60_000, async () => (await count()) > before);
  const pod = await kubelet().ready(name);
  t.deepEqual(ids(pod), ids(first), "the same containers");
  t.deepEqual(restarts(pod), [0, 0]);
  t.is(pod.metadata.uid, first.metadata.uid);
  t.is((await podvm().crictl.pods()).length, 1, "one sandbox");
  const lines = (await kubelet().logs(name, "counts")).trimEnd().split("\n");
  t.deepEqual(
    lines,
    Array.from(lines, (_, i) => `line ${i + 1}`),
    "the log misses nothing",
  );
}

test("kubelet is killed", async (t) => {
  const before = await count();
  await kubelet().restart();
  await livesOn(t, before);
});

test("PodVM is killed", async (t) => {
  const before = await count();
  await podvm().restart();
  await livesOn(t, before);
});

test("PodVM is away for a while", async (t) => {
  const before = await count();
  await podvm().kill();
  const said = kubelet().logTail(1e6).length;
  await until("kubelet has noticed", 60_000, () => kubelet().logTail(1e6).slice(said).includes("connection refused"));
  await podvm().start();
  await livesOn(t, before);
});

test("both are killed", async (t) => {
  const before = await count();
  await kubelet().end();
  await podvm().kill();
  await podvm().start();
  await kubelet().start();
  await livesOn(t, before);
});

test("a pod taken away while kubelet is not there is gone when it comes back", async (t) => {
  await kubelet().end();
  await kubelet().forget(name);
  await kubelet().start();
  await kubelet().remove(name);
  t.deepEqual(await podvm().crictl.pods(), []);
});
