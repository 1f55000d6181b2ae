/** Images: every way to name one, every kind of layer, and what is said when it does not work. */
import { createServer } from "node:net";
import { busybox, containerConfig } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm, images, server } = suite({ images: "all" });

async function output(image: string, ...command: string[]): Promise<string> {
  const { crictl } = podvm();
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  const id = await crictl.start(pod, containerConfig({ image, command }), config);
  const status = await until("it has exited", 30_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  const text = await crictl.run("logs", id);
  if (status.exitCode !== 0) throw new Error(`exit code ${status.exitCode}: ${text}`);
  await podvm().removePod(pod);
  return text;
}

test("pull by tag, without a tag, by digest, and by tag and digest", async (t) => {
  const { crictl } = podvm();
  const digest = images().digest(busybox);
  const only = async () => {
    const [image, ...more] = await crictl.images();
    if (!image || more.length > 0) throw new Error(`wanted one image, found ${more.length + (image ? 1 : 0)}`);
    return image;
  };
  await crictl.run("pull", "busybox:1.36");
  const byTag = await only();
  t.deepEqual(byTag.repoTags, [busybox]);
  t.deepEqual(byTag.repoDigests, [`docker.io/library/busybox@${digest}`]);

  await crictl.run("pull", "busybox");
  t.deepEqual((await only()).repoTags.sort(), [busybox, "docker.io/library/busybox:latest"]);
  const { id } = byTag;
  for (const name of [busybox, "busybox", "library/busybox:1.36", `busybox@${digest}`, id, id.slice(7)]) {
    t.is((await crictl.json<{ status: { id: string } }>("inspecti", "-o", "json", name)).status.id, id, name);
  }
  await crictl.run("rmi", busybox);
  t.is((await only()).id, id, "the image stays under its other tag");
  await crictl.run("rmi", id);
  t.deepEqual(await crictl.images(), []);

  await crictl.run("pull", `docker.io/library/busybox@${digest}`);
  const byDigest = await only();
  t.deepEqual(byDigest.repoTags ?? [], []);
  t.deepEqual(byDigest.repoDigests, [`docker.io/library/busybox@${digest}`]);
  t.is(await output(`docker.io/library/busybox@${digest}`, "echo", "by digest"), "by digest");
  await crictl.run("rmi", byDigest.id);

  await crictl.run("pull", `busybox:1.36@${digest}`);
  t.true((await only()).repoDigests.includes(`docker.io/library/busybox@${digest}`));
  await crictl.run("rmi", "--all");
});

test("of an index the image of this machine's platform is taken", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", "ghcr.io/podvm-test/multi:1");
  t.is(
    (await crictl.images())[0]?.repoDigests[0] ?? "",
    `ghcr.io/podvm-test/multi@${images().digest("ghcr.io/podvm-test/multi:1")}`,
  );
  t.is(await output("ghcr.io/podvm-test/multi:1", "cat", "/arch"), "amd64");
});

test("an image for other platforms only is refused with both named", async (t) => {
  const said = await podvm().crictl.fails("pull", "ghcr.io/podvm-test/multi:arm");
  t.regex(said, /linux\/amd64/);
  t.regex(said, /arm64/);
});

test("many layers: later files win, whiteouts and opaque folders hide, hard links and modes stay", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", "quay.io/podvm-test/layers:1");
  const script = `
    cd /t; find . | sort
    cat changed; cat dir-now-file; readlink link
    stat -c '%a %u:%g %h' hard1 suid; [ hard1 -ef hard2 ] && echo same
    stat -c '%Y' hard1`;
  const wanted = images().layersWanted;
  t.deepEqual((await output("quay.io/podvm-test/layers:1", "sh", "-c", script)).split("\n"), wanted);
});

test("layers in zstd", async (t) => {
  await podvm().crictl.run("pull", "quay.io/podvm-test/zstd:1");
  t.is(await output("quay.io/podvm-test/zstd:1", "cat", "/packed"), "with zstd");
});

test("the image's user is shown as CRI wants it, and used", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", "registry.k8s.io/podvm-test/user:1");
  await crictl.run("pull", "registry.k8s.io/podvm-test/config:1");
  const find = async (name: string) => (await crictl.images()).find(({ repoTags }) => repoTags.includes(name));
  t.is((await find("registry.k8s.io/podvm-test/user:1"))?.username, "app");
  t.is((await find("registry.k8s.io/podvm-test/config:1"))?.uid?.value, "1234");
  t.is(
    await output("registry.k8s.io/podvm-test/user:1", "sh", "-c", "id -u; id -g; id -G; echo $HOME"),
    "1000\n1001\n1001 2000\n/home/app",
  );
});

test("a file's own bytes arrive: 40 MB of them, hashed in the guest", async (t) => {
  await podvm().crictl.run("pull", "quay.io/podvm-test/big:1");
  t.is((await output("quay.io/podvm-test/big:1", "sha256sum", "/big")).split(" ")[0], images().bigHash);
});

test("bad references are refused as such", async (t) => {
  for (const name of [
    "UPPER/Case:1",
    "busybox:bad tag",
    "busybox@sha256:123",
    "http://example.com/a",
    "../../etc/passwd",
    "a/b:c:d",
    `long/${"a".repeat(5000)}`,
  ]) {
    const said = await podvm().crictl.fails("pull", name);
    t.regex(said, /InvalidArgument/, name.slice(0, 80));
  }
  // at the registry itself: where only a mirror lacks an image, its registry is asked next
  const registry = images().host;
  t.regex(await podvm().crictl.fails("pull", `${registry}/library/no-such-image:1`), /NotFound/);
  t.regex(await podvm().crictl.fails("pull", `${registry}/library/busybox@sha256:${"0".repeat(64)}`), /NotFound/);
  const config = podvm().pod();
  const pod = await podvm().crictl.runp(config);
  const missing = await podvm().crictl.file(containerConfig({ image: "docker.io/library/never-pulled:1" }));
  t.regex(await podvm().crictl.fails("create", pod, missing, await podvm().crictl.file(config)), /NotFound|not found/i);
  await podvm().removePod(pod);
});

test("a registry that does not answer is named, and nothing is left of the pull", async (t) => {
  const closed = createServer();
  await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
  const address = closed.address();
  const port = typeof address === "object" && address ? address.port : 0;
  await new Promise((resolve) => closed.close(resolve));
  const said = await podvm().crictl.fails("pull", `127.0.0.1:${port}/some/image:1`);
  t.true(said.includes(`127.0.0.1:${port}`), said);
  t.false((await podvm().crictl.images()).some(({ repoTags }) => repoTags.some((tag) => tag.includes("some/image"))));
});

test("a pull that a kill of the server cut off leaves no image, and works again after", async (t) => {
  const own = await server(t);
  await own.start();
  const pull = own.crictl.attempt(["pull", "quay.io/podvm-test/big:1"]);
  await new Promise((resolve) => setTimeout(resolve, 350));
  await own.kill();
  await pull;
  await own.start();
  const there = await own.crictl.images();
  t.true(there.length === 0 || there[0]?.repoTags[0] === "quay.io/podvm-test/big:1", "whole or not at all");
  await own.crictl.run("pull", "quay.io/podvm-test/big:1");
  t.is((await own.crictl.images()).length, 1);
});

test("an image in use can be removed from the list; its container goes on", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  const { podId, id } = await podvm().podWith();
  await crictl.attempt(["rmi", busybox]);
  t.is(await crictl.exec(id, "sh", "-c", "cat /bin/busybox | wc -c >/dev/null && echo readable"), "readable");
  await podvm().removePod(podId);
});
