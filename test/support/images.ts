/**
 * The images of the end-to-end tests, pushed to a registry on loopback under the repository paths that they have in public: a mirror for `*`
 * makes them docker.io/library/busybox:1.36 and so on. Made from the same inputs they have the same digests everywhere.
 */
import { createCipheriv, createHash } from "node:crypto";
import { busyboxItems, group, passwd } from "./base-image.js";
import { startRegistry, type TestRegistry } from "./registry.js";
import { type Pushed, pushImage, pushIndex } from "./registry-push.js";
import { makeTar, type TarItem } from "./tar.js";

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const amd64 = { os: "linux", architecture: "amd64" };
const arm64 = { os: "linux", architecture: "arm64" };

export class TestImages {
  /** What the script of the layers test must print: see `layers`. */
  readonly layersWanted: string[] = [];
  /** SHA-256 of the file /big. */
  bigHash = "";
  private readonly digests = new Map<string, string>();
  private readonly base = makeTar(busyboxItems());

  private constructor(private readonly registry: TestRegistry) {}

  /** A registry of this test file's own, with busybox only or with all images. */
  static async served(which: "busybox" | "all"): Promise<TestImages> {
    const images = new TestImages(await startRegistry());
    try {
      await images.busybox();
      if (which === "all") await images.others();
    } catch (err) {
      await images.close();
      throw err;
    }
    return images;
  }

  /** Base URL for a mirror setting. */
  get url(): string {
    return this.registry.url;
  }

  /** host:port of the registry. */
  get host(): string {
    return this.registry.host;
  }

  close(): Promise<void> {
    return this.registry.stop();
  }

  /** Digest of what the name's tag points to: of the index where there is one. */
  digest(name: string): string {
    const digest = this.digests.get(name);
    if (!digest) throw new Error(`no test image ${name}; there are: ${[...this.digests.keys()].join(", ")}`);
    return digest;
  }

  private async others(): Promise<void> {
    await this.multi();
    await this.layers();
    await this.users();
    await this.big();
    await this.one("quay.io/podvm-test/zstd:1", [this.base, makeTar([{ name: "packed", data: "with zstd\n" }])], {
      compression: "zstd",
    });
  }

  /** One image under a full name, with busybox's command unless `config` says otherwise. */
  async one(
    name: string,
    layers: Buffer[],
    more: { config?: Record<string, unknown>; compression?: "gzip" | "zstd" | "none"; architecture?: string } = {},
  ): Promise<Pushed> {
    const { repository, tag } = parts(name);
    const config = { Env: [path], Cmd: ["sh"], ...more.config };
    const pushed = await pushImage({ host: this.host, repository, tag, layers, ...more, config });
    this.digests.set(name, pushed.digest);
    return pushed;
  }

  /** Docker media types, an index with one platform, two tags: what docker.io serves. */
  private async busybox(): Promise<void> {
    for (const tag of ["1.36", "latest"]) {
      const repository = "library/busybox";
      const pushed = await pushImage({
        host: this.host,
        repository,
        tag: `${tag}-amd64`,
        layers: [this.base],
        config: { Env: [path], Cmd: ["sh"] },
        mediaTypes: "docker",
      });
      const images = [{ pushed, platform: amd64 }];
      const digest = await pushIndex({ host: this.host, repository, tag, mediaTypes: "docker", images });
      this.digests.set(`docker.io/library/busybox:${tag}`, digest);
    }
  }

  private async multi(): Promise<void> {
    const repository = "podvm-test/multi";
    const make = (architecture: string) =>
      pushImage({
        host: this.host,
        repository,
        tag: architecture,
        architecture,
        layers: [this.base, makeTar([{ name: "arch", data: `${architecture}\n` }])],
        config: { Env: [path], Cmd: ["cat", "/arch"] },
      });
    const [arm, amd] = [await make("arm64"), await make("amd64")];
    const images = [
      { pushed: arm, platform: arm64 },
      { pushed: amd, platform: amd64 },
    ];
    this.digests.set("ghcr.io/podvm-test/multi:1", await pushIndex({ host: this.host, repository, tag: "1", images }));
    const only = [{ pushed: arm, platform: arm64 }];
    this.digests.set(
      "ghcr.io/podvm-test/multi:arm",
      await pushIndex({ host: this.host, repository, tag: "arm", images: only }),
    );
  }

  /** 20 layers that overwrite, remove and hide what those below them brought. */
  private async layers(): Promise<void> {
    const text = (name: string, data: string, more: Partial<TarItem> = {}): TarItem => ({ name, data, ...more });
    const layers: TarItem[][] = [
      [
        { name: "t/" },
        text("t/changed", "first\n"),
        text("t/removed", "x"),
        { name: "t/folder/" },
        text("t/folder/kept", "x"),
        text("t/folder/removed", "x"),
        { name: "t/opaque/" },
        text("t/opaque/hidden", "x"),
        { name: "t/opaque/deep/" },
        text("t/opaque/deep/hidden", "x"),
        { name: "t/dir-now-file/" },
        text("t/dir-now-file/inside", "x"),
        text("t/hard1", "linked\n", { mode: 0o640, uid: 12, gid: 34 }),
        { name: "t/hard2", type: "1", link: "t/hard1" },
        text("t/suid", "x", { mode: 0o4755 }),
        { name: "t/link", link: "changed" },
        text("t/back", "first\n"),
      ],
      [
        text("t/changed", "second\n"),
        text("t/.wh.removed", ""),
        text("t/folder/.wh.removed", ""),
        { name: "t/opaque/" },
        text("t/opaque/.wh..wh..opq", ""),
        text("t/opaque/new", "x"),
        text("t/.wh.dir-now-file", ""),
        text("t/.wh.back", ""),
      ],
      [text("t/dir-now-file", "a file now\n"), text("t/back", "again\n")],
      ...Array.from({ length: 16 }, (_, n) => [{ name: "t/many/" }, text(`t/many/${String(n).padStart(2, "0")}`, "x")]),
    ];
    await this.one("quay.io/podvm-test/layers:1", [this.base, ...layers.map((items) => makeTar(items))]);
    const files = [
      ".",
      "./back",
      "./changed",
      "./dir-now-file",
      "./folder",
      "./folder/kept",
      "./hard1",
      "./hard2",
      "./link",
      "./many",
      ...Array.from({ length: 16 }, (_, n) => `./many/${String(n).padStart(2, "0")}`),
      "./opaque",
      "./opaque/new",
      "./suid",
    ];
    const contents = ["second", "a file now", "changed", "640 12:34 2", "4755 0:0 1", "same", "1700000000"];
    this.layersWanted.push(...files, ...contents);
  }

  private async users(): Promise<void> {
    const app = makeTar([
      { name: "etc/passwd", data: `${passwd}app:x:1000:1001::/home/app:/bin/sh\n` },
      { name: "etc/group", data: `${group}app:x:1001:\nextra:x:2000:app\n` },
      { name: "home/app/", uid: 1000, gid: 1001 },
    ]);
    await this.one("registry.k8s.io/podvm-test/user:1", [this.base, app], { config: { User: "app" } });
    await this.one("registry.k8s.io/podvm-test/config:1", [this.base, makeTar([{ name: "work/", mode: 0o777 }])], {
      config: {
        User: "1234:5678",
        WorkingDir: "/work",
        Env: [path, "FROM_IMAGE=image"],
        Entrypoint: ["sh", "-c", 'id -u; id -g; pwd; echo $FROM_IMAGE; echo "$@"', "entry"],
        Cmd: ["from", "image"],
      },
    });
  }

  /** 40 MB that do not compress, the same on every run. */
  private async big(): Promise<void> {
    const stream = createCipheriv("aes-128-ctr", Buffer.alloc(16, 1), Buffer.alloc(16));
    const data = stream.update(Buffer.alloc(40_000_000));
    this.bigHash = createHash("sha256").update(data).digest("hex");
    await this.one("quay.io/podvm-test/big:1", [this.base, makeTar([{ name: "big", data }])]);
  }
}

/** "quay.io/podvm-test/big:1" → the path and tag that a mirror is asked for. */
function parts(name: string): { repository: string; tag: string } {
  const match = /^[^/]+\/(.+):([^:]+)$/.exec(name);
  if (!match?.[1] || !match[2]) throw new Error(`${name}: wanted registry/repository:tag`);
  return { repository: match[1], tag: match[2] };
}
