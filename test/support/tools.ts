/** Where the tests find the programs that `make test-setup` prepared. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const up = dirname(folder);
    if (up === folder) throw new Error("no package.json above the compiled tests: are they outside the checkout?");
    folder = up;
  }
  return folder;
}

/** The checkout. */
export const projectRoot = findRoot();

/** What `podvm` is in these tests: the main.js compiled together with them. */
export const podvmMain = fileURLToPath(new URL("../../src/main.js", import.meta.url));

/** The same, or undefined where the tools are not set up. */
export function toolIfThere(name: Tool): string | undefined {
  try {
    return tool(name);
  } catch {
    return undefined;
  }
}

let known: Map<string, string> | undefined;

export type Tool =
  | "crictl"
  | "stream-client"
  | "posix-checks"
  | "docker-registry"
  | "busybox"
  | "apparmor"
  | "assets"
  | "critest"
  | "ginkgo"
  | "critest-images"
  | KubernetesProgram;

/** Built by test/setup/kubernetes.sh for the suites that want them. */
export type KubernetesProgram =
  | "kubelet"
  | "kube-apiserver"
  | "kube-controller-manager"
  | "kube-scheduler"
  | "kube-proxy"
  | "kubectl"
  | "etcd"
  | "grpc-health";

/**
 * Absolute path of a test tool. "busybox" is a folder that is to be the root of an image; "apparmor" holds apparmor_parser and features of a kernel; "assets" holds runtime bundle, guest image, launcher;
 * "critest-images" holds what critest-config/build-images.sh made.
 */
export function tool(name: Tool): string {
  const file = join(projectRoot, "build/test-tools.env");
  if (!known) {
    if (!existsSync(file)) throw new Error(`the test tools are not set up (no ${file}): run make test-setup`);
    known = new Map();
    for (const one of [file, join(projectRoot, "build/critest-tools.env")]) {
      if (!existsSync(one)) continue; // the second: critest-config/setup.sh
      for (const line of readFileSync(one, "utf8").split("\n")) {
        const at = line.indexOf("=");
        if (at > 0) known.set(line.slice(0, at), line.slice(at + 1));
      }
    }
  }
  const path = known.get(name);
  if (!path)
    throw new Error(`${file} does not name ${name}: run make test-setup (for critest: critest-config/setup.sh) again`);
  return path;
}
