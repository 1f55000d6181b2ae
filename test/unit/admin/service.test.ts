import test from "ava";
import { createAdminHandlers } from "../../../src/admin/service.js";
import type { PullImageResponse } from "../../../src/gen/admin/v1/admin.js";
import { sleep } from "../../../src/host/deadline.js";
import { PodvmError } from "../../../src/host/errors.js";
import type { Image, PullOptions } from "../../../src/image/image.js";
import { parseReference } from "../../../src/image/reference.js";

const image = { id: "sha256:1", repoDigests: ["docker.io/library/x@sha256:2"] } as Image;

function handlers(pull: (options: PullOptions) => Promise<Image>) {
  return createAdminHandlers({
    images: { pull: (_, options = {}) => pull(options) },
    parseReference,
    metrics: { render: () => "m 1\n" },
  });
}

test("a pull: every change of state is told, then the result, and a flood is thinned", async (t) => {
  const { pullImage } = handlers(async ({ onProgress }) => {
    for (let done = 0; done <= 1000; done++) {
      onProgress?.({ item: "sha256:l", state: "downloading", doneBytes: done, totalBytes: 1000 });
      if (done % 100 === 0) await sleep(20);
    }
    onProgress?.({ item: "sha256:l", state: "done", doneBytes: 1000, totalBytes: 1000 });
    return image;
  });
  const got: PullImageResponse[] = [];
  for await (const message of pullImage({ image: "x" }, { signal: new AbortController().signal })) got.push(message);
  t.deepEqual(got.at(-1), { done: { imageId: "sha256:1", repoDigests: ["docker.io/library/x@sha256:2"] } });
  t.like(got.at(-2)?.progress, { state: "done", doneBytes: 1000n });
  t.is(got[0]?.progress?.state, "downloading");
  t.true(got.length < 100, `${got.length} messages for 1002 reports`);
});

test("the pull's own error is the call's", async (t) => {
  const { pullImage } = handlers(() => Promise.reject(new PodvmError("unauthenticated", "no entry")));
  const stream = pullImage({ image: "x" }, { signal: new AbortController().signal });
  const err = await t.throwsAsync(async () => {
    for await (const _ of stream);
  });
  t.is((err as PodvmError).code, "unauthenticated");
});

test("what is no reference does not reach the store", async (t) => {
  const { pullImage } = handlers(() => Promise.reject(new Error("reached")));
  for (const name of ["", "UPPER CASE", "x".repeat(5000)]) {
    const err = await t.throwsAsync(async () => {
      for await (const _ of pullImage({ image: name }, { signal: new AbortController().signal }));
    });
    t.is((err as PodvmError).code, "invalid_argument");
  }
});

test("a client that leaves ends the pull", async (t) => {
  let aborted = false;
  const { pullImage } = handlers(({ signal, onProgress }) => {
    onProgress?.({ item: "sha256:l", state: "downloading", doneBytes: 0, totalBytes: 1 });
    return new Promise((_, reject) => {
      signal?.addEventListener("abort", () => {
        aborted = true;
        reject(new PodvmError("cancelled", "gone"));
      });
    });
  });
  for await (const _ of pullImage({ image: "x" }, { signal: new AbortController().signal })) break;
  t.true(aborted);
});
