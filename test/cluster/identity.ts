/** Who is who in the cluster: tokens for the API server's clients, its own certificate for kubelet, the key of service accounts. */
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { apiUrl, type ClusterOptions, kubeconfig, users, type Who } from "./options.js";

/** User name and groups as the API server's built-in roles know them. */
const accounts = (options: ClusterOptions): Record<Who, [user: string, groups: string]> => ({
  admin: ["admin", "system:masters"],
  controllers: ["system:kube-controller-manager", ""],
  scheduler: ["system:kube-scheduler", ""],
  kubelet: [`system:node:${options.node}`, "system:nodes"],
  proxy: ["system:kube-proxy", ""],
});

/** tokens.csv, a kubeconfig each, pki/{sa.key,sa.pub,ca.crt,apiserver-kubelet.{crt,key}}. All readable by root only. */
export async function makeIdentities(options: ClusterOptions): Promise<void> {
  const pki = join(options.dir, "pki");
  await mkdir(pki, { recursive: true, mode: 0o700 });
  const lines: string[] = [];
  for (const who of users) {
    const token = randomBytes(24).toString("hex");
    const [user, groups] = accounts(options)[who];
    lines.push(`${token},${user},${who},"${groups}"\n`);
    await secret(kubeconfig(options, who), kubeconfigText(options, token));
  }
  await secret(join(options.dir, "tokens.csv"), lines.join(""));

  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  await secret(join(pki, "sa.key"), privateKey.export({ type: "pkcs1", format: "pem" }) as string);
  await secret(join(pki, "sa.pub"), publicKey.export({ type: "spki", format: "pem" }) as string);
  await clientCertificate(pki);
}

/** Kubelet believes only who shows a certificate of this authority; the API server is the one that has it. */
async function clientCertificate(pki: string): Promise<void> {
  const file = (name: string) => join(pki, name);
  const newKey = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"] as const;
  const openssl = (...args: string[]) => run(["openssl", ...args]);
  await openssl(
    ...newKey,
    "-x509",
    "-days",
    "3650",
    "-subj",
    "/CN=podvm-cluster",
    "-keyout",
    file("ca.key"),
    "-out",
    file("ca.crt"),
  );
  const request = file("apiserver-kubelet.csr");
  await openssl(
    ...newKey,
    "-subj",
    "/O=system:masters/CN=kube-apiserver",
    "-keyout",
    file("apiserver-kubelet.key"),
    "-out",
    request,
  );
  await writeFile(file("client.ext"), "extendedKeyUsage=clientAuth\n");
  const sign = ["x509", "-req", "-days", "3650", "-CAcreateserial", "-CA", file("ca.crt"), "-CAkey", file("ca.key")];
  await openssl(...sign, "-extfile", file("client.ext"), "-in", request, "-out", file("apiserver-kubelet.crt"));
}

/** The API server's certificate is its own work (--cert-dir), with its authority in the same file. */
function kubeconfigText(options: ClusterOptions, token: string): string {
  const cluster = { server: apiUrl(options), "certificate-authority": join(options.dir, "pki/apiserver.crt") };
  return `${JSON.stringify(
    {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "podvm", cluster }],
      users: [{ name: "me", user: { token } }],
      contexts: [{ name: "podvm", context: { cluster: "podvm", user: "me" } }],
      "current-context": "podvm",
    },
    null,
    2,
  )}\n`;
}

const secret = (path: string, text: string) => writeFile(path, text, { mode: 0o600 });
