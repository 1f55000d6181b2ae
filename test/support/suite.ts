/** What every end-to-end file begins with: registry with the test images, a server of its own, and what failed tests leave to read. */
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import { TestImages } from "./images.js";
import { Podvm, type PodvmOptions } from "./podvm.js";

export interface Suite {
  /** Tests run one after another: they share the server and the machine. */
  test: TestFn;
  podvm(): Podvm;
  images(): TestImages;
  /** Another server for one test, destroyed at its end; the log is shown if the test failed. */
  server(t: ExecutionContext, options?: PodvmOptions): Promise<Podvm>;
}

/** Registers the hooks of an end-to-end test file. Its registry has busybox, or all test images where they are asked for. */
export function suite(options: PodvmOptions & { images?: "busybox" | "all" } = {}): Suite {
  const test = anyTest.serial as unknown as TestFn;
  let images: TestImages | undefined;
  let podvm: Podvm | undefined;

  anyTest.before(async (t) => {
    t.timeout(300_000);
    images = await TestImages.served(options.images ?? "busybox");
    podvm = await Podvm.started({ mirror: images.url, ...options });
  });
  anyTest.after.always(async () => {
    await podvm?.destroy();
    await images?.close();
  });
  anyTest.afterEach.always(async (t) => {
    if (t.passed || !podvm) return;
    t.log(`end of the server's log:\n${podvm.logTail()}`);
    // what a failed test left must not fail the next
    if (podvm.running) await podvm.removeAllPods().catch((err: Error) => t.log(err.message));
  });

  const need = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error("the file's before hook has not made this");
    return value;
  };
  return {
    test,
    podvm: () => need(podvm),
    images: () => need(images),
    async server(t, more = {}) {
      const own = new Podvm({ mirror: need(images).url, ...more });
      t.teardown(async () => {
        if (!t.passed) t.log(`end of the server's log:\n${own.logTail()}`);
        await own.destroy();
      });
      await own.prepare();
      return own;
    },
  };
}
