/**
 * The images that critest v1.36 asks for, under the repository paths that they have in public: a mirror for `*` makes them
 * registry.k8s.io/e2e-test-images/busybox:1.29-2 and so on. What each must hold is told by the specs that use it (critest-config/README.md).
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startRegistry, type TestRegistry } from "../support/registry.js";
import { pushImage, pushIndex } from "../support/registry-push.js";
import { makeTar, type TarItem } from "../support/tar.js";
import { tool } from "../support/tools.js";

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const e2e = "e2e-test-images";
const staging = "k8s-staging-cri-tools";

/** What most specs run; also good for a warm-up. */
export const defaultImage = `registry.k8s.io/${e2e}/busybox:1.29-2`;

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`;

const group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
`;

interface Recipe {
  layers: Buffer[];
  config?: Record<string, unknown>;
}

export class CritestImages {
  /** sha256:… of the image that critest pulls by digest, as it is here. */
  digestImage = "";
  private readonly made = tool("critest-images");
  private readonly busybox = makeTar(this.busyboxItems());

  private constructor(private readonly registry: TestRegistry) {}

  /** Starts a registry on a free loopback port and fills it. */
  static async served(): Promise<CritestImages> {
    const images = new CritestImages(await startRegistry());
    try {
      await images.pushAll();
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

  close(): Promise<void> {
    return this.registry.stop();
  }

  private async pushAll(): Promise<void> {
    const base = this.busybox;
    const file = (name: string) => makeTar([{ name, data: "" }]);
    const tags = ["1.29-2", "1.35.0-glibc", "1-uclibc", "1", "1-glibc", "1-musl"]; // those after the first: benchmarks
    await this.push(
      tags.map((tag) => `${e2e}/busybox:${tag}`),
      { layers: [base] },
    );
    await this.push(["pause:3.9"], this.pause("3.9"));
    await this.webServers();
    await this.push([`${e2e}/nonewprivs:1.3`], {
      layers: [base, makeTar([{ name: "nnp", mode: 0o6755, data: this.input("nnp") }])],
      config: { Entrypoint: ["/nnp"], Cmd: undefined },
    });
    await this.users();
    for (const name of ["1", "2", "3", "latest"]) {
      await this.push([`${staging}/test-image-${name}:latest`], { layers: [base, file(`test-image-${name}`)] });
    }
    for (const tag of ["test", "all"]) {
      await this.push([`${staging}/test-image-tag:${tag}`], { layers: [base, file(tag)] });
    }
    await this.push(
      ["1", "2", "3"].map((tag) => `${staging}/test-image-tags:${tag}`),
      { layers: [base, file("same-image")] },
    );
    this.digestImage = await this.push([`${staging}/test-image-digest:latest`], {
      layers: [base, file("test-image-digest")],
    });
  }

  /** Users by number and by name, alone and with a group; one who is a member of a group that only the image knows. */
  private async users(): Promise<void> {
    const users = { uid: "1002", username: "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004" };
    for (const [name, User] of Object.entries(users)) {
      await this.push([`${staging}/test-image-user-${name}:latest`], { layers: [this.busybox], config: { User } });
    }
    const user = "default-user";
    const member = makeTar([
      { name: "etc/passwd", data: `${passwd}${user}:x:1000:1000::/home/${user}:/bin/sh\n` },
      { name: "etc/group", data: `${group}${user}:x:1000:\ngroup-defined-in-image:x:50000:${user}\n` },
      { name: `home/${user}/`, uid: 1000, gid: 1000 },
    ]);
    await this.push([`${staging}/test-image-predefined-group:latest`], {
      layers: [this.busybox, member],
      config: { User: "1000" },
    });
  }

  private async webServers(): Promise<void> {
    const Cmd = ["nginx", "-g", "daemon off;"];
    await this.push([`${e2e}/nginx:1.14-2`], {
      layers: [this.busybox, this.nginx(80)],
      config: { Cmd, ExposedPorts: { "80/tcp": {} } },
    });
    await this.push([`${staging}/hostnet-nginx-amd64:latest`], {
      layers: [this.busybox, this.nginx(12003)],
      config: { Cmd },
    });
    // A web server whose log says "httpd": busybox has one.
    const root = "usr/local/apache2/htdocs";
    const page = makeTar([
      ...["usr/local/", "usr/local/apache2/", `${root}/`].map((name) => ({ name })),
      { name: `${root}/index.html`, data: "<html><body><h1>It works!</h1></body></html>\n" },
    ]);
    const script = `echo "Command line: httpd -D FOREGROUND" >&2; exec httpd -f -vv -p 80 -h /${root}`;
    await this.push([`${e2e}/httpd:2.4.39-4`], {
      layers: [this.busybox, page],
      config: { Cmd: ["sh", "-c", script], ExposedPorts: { "80/tcp": {} } },
    });
  }

  private pause(version: string): Recipe {
    const layer = makeTar([{ name: "pause", mode: 0o755, data: this.input("pause") }]);
    const Env = ["PATH=/", `PAUSE_VERSION=${version}`];
    return { layers: [layer], config: { Entrypoint: ["/pause"], Cmd: undefined, User: "65535:65535", Env } };
  }

  /** Debian's nginx with its libraries, in the foreground, logging to its standard streams. */
  private nginx(port: number): Buffer {
    const from = (name: string): TarItem => ({ name, mode: 0o755, data: this.input(`nginx/${name}`) });
    const libraries = "lib/x86_64-linux-gnu";
    const conf = `user root;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
  access_log /dev/stdout;
  default_type text/html;
  server { listen ${port}; listen [::]:${port}; root /usr/share/nginx/html; }
}
`;
    return makeTar([
      from("usr/sbin/nginx"),
      { name: "lib64/" },
      from("lib64/ld-linux-x86-64.so.2"),
      { name: `${libraries}/` },
      ...readdirSync(join(this.made, "nginx", libraries))
        .sort()
        .map((name) => from(`${libraries}/${name}`)),
      ...["etc/nginx/", "usr/share/", "usr/share/nginx/", "usr/share/nginx/html/"].map((name) => ({ name })),
      ...["var/lib/", "var/lib/nginx/", "var/log/", "var/log/nginx/"].map((name) => ({ name })),
      { name: "usr/share/nginx/html/index.html", data: "<html><body><h1>Welcome to nginx!</h1></body></html>\n" },
      { name: "etc/nginx/nginx.conf", data: conf },
    ]);
  }

  /** Applets are hard links: with symbolic ones, masking /bin/ls would mask busybox itself, and with it all. */
  private busyboxItems(): TarItem[] {
    const folders = ["bin", "dev", "etc", "home", "lib", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin"];
    const applets = this.input("busybox.applets").toString().split("\n").filter(Boolean);
    return [
      ...[...folders, "var", "var/run", "var/spool", "var/www"].map((name) => ({ name: `${name}/` })),
      { name: "tmp/", mode: 0o1777 },
      { name: "bin/busybox", mode: 0o755, data: this.input("busybox") },
      ...applets
        .filter((name) => name !== "busybox")
        .map((name) => ({ name: `bin/${name}`, type: "1", link: "bin/busybox", mode: 0o755 })),
      { name: "usr/bin/env", link: "../../bin/env", mode: 0o777 },
      { name: "etc/passwd", data: passwd },
      { name: "etc/group", data: group },
      { name: "etc/shadow", mode: 0o640, data: "root:*:10933:0:99999:7:::\n" },
    ];
  }

  private input(name: string): Buffer {
    return readFileSync(join(this.made, name));
  }

  /**
   * One image under several names ("repository:tag"), as a list of one platform with Docker's media types, which is what the real ones are.
   * @returns the list's digest, the same under each name
   */
  private async push(names: string[], recipe: Recipe): Promise<string> {
    const config = { Env: [path], Cmd: ["sh"], ...recipe.config };
    let digest = "";
    for (const name of names) {
      const [repository = "", tag = ""] = name.split(":");
      const to = { host: this.registry.host, repository, mediaTypes: "docker" as const };
      const pushed = await pushImage({ ...to, tag: `${tag}-amd64`, layers: recipe.layers, config });
      const images = [{ pushed, platform: { os: "linux", architecture: "amd64" } }];
      digest = await pushIndex({ ...to, tag, images });
    }
    return digest;
  }
}
