/** What every file of the kubelet suite begins with: registry, PodVM and a standalone kubelet on its socket, and at the end nothing left. */

import { readFileSync } from "node:fs";
import anyTest, { type TestFn } from "ava";
import { TestImages } from "./images.js";
import { Kubelet } from "./kubelet.js";
import { left, type NodeSnapshot, snapshot } from "./node.js";
import { Podvm, type PodvmOptions } from "./podvm.js";
import { makeTar } from "./tar.js";
import { tool } from "./tools.js";
import { until } from "./until.js";

export const grpcHealth = "registry.k8s.io/podvm-test/grpc-health:1";

export interface KubeletSuite {
  /** Tests run one after another: they share kubelet, server and machine. */
  test: TestFn;
  podvm(): Podvm;
  kubelet(): Kubelet;
}

/** Registers the hooks of a kubelet test file. Each test, or the last of those that share a pod, removes it; what a failed one left is removed before the next. */
export function kubeletSuite(
  options: { podvm?: PodvmOptions; kubelet?: Record<string, unknown>; grpc?: boolean } = {},
): KubeletSuite {
  const test = anyTest.serial as unknown as TestFn;
  let images: TestImages | undefined;
  let podvm: Podvm | undefined;
  let kubelet: Kubelet | undefined;
  let before: NodeSnapshot | undefined;

  anyTest.before(async (t) => {
    t.timeout(300_000);
    images = await TestImages.served("busybox");
    if (options.grpc) await pushGrpcHealth(images);
    podvm = await Podvm.started({ mirror: images.url, ...options.podvm });
    await podvm.warmUp();
    kubelet = await Kubelet.started(podvm, options.kubelet);
    before = await snapshot(podvm);
  });
  anyTest.after.always(async () => {
    await kubelet?.destroy();
    await podvm?.destroy();
    await images?.close();
  });
  anyTest.afterEach.always(async (t) => {
    if (!podvm || !kubelet) return;
    if (!t.passed) {
      t.log(`end of the server's log:\n${podvm.logTail()}\nend of kubelet's log:\n${kubelet.logTail()}`);
      if (!podvm.running) await podvm.start();
      if (!kubelet.running) await kubelet.start();
      await kubelet.removeAll();
      return;
    }
    if (kubelet.names().length > 0) return; // the pod of the tests that follow
    // Every test ends with everything gone; CNI, cgroups and kubelet's own folders take a moment.
    let more: unknown;
    await until("nothing is left", 90_000, async () => {
      if (!podvm || !kubelet || !before) return true;
      const now = await snapshot(podvm);
      // Kubelet's folders for classes of pods stay, and are made in some hierarchies with the first pod only.
      now.cgroups = now.cgroups.filter((path) => !/\/kubepods(\/besteffort|\/burstable)?$/.test(path));
      more = { ...left(before, now), kubelet: kubelet.leftovers() };
      return JSON.stringify(more) === '{"kubelet":[]}';
    }).catch(() => t.deepEqual(more, { kubelet: [] }, "left behind"));
  });

  const need = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error("the file's before hook has not made this");
    return value;
  };
  return { test, podvm: () => need(podvm), kubelet: () => need(kubelet) };
}

/** The static program as an image of one layer. */
async function pushGrpcHealth(images: TestImages): Promise<void> {
  const data = readFileSync(tool("grpc-health"));
  await images.one(grpcHealth, [makeTar([{ name: "grpc-health", mode: 0o755, data }])], {
    config: { Entrypoint: ["/grpc-health"], Cmd: ["5000"] },
  });
}
