/**
 * `make cluster`, `make cluster-down`.
 *
 * usage: main.js up|down       environment: PODVM_CLUSTER (folder), MIRROR (URL of a registry mirror), PODVM_SOCKET (a PodVM that runs)
 */
import { tool } from "../support/tools.js";
import { Cluster } from "./cluster.js";
import { defaults, kubeconfig } from "./options.js";

const options = defaults();
const began = Date.now();
const say = (what: string) => console.log(`  ${((Date.now() - began) / 1000).toFixed(0).padStart(4)}s  ${what}`);

const up = async () => {
  await Cluster.up(options, say);
  say("ready");
  console.log(`
  export KUBECONFIG=${kubeconfig(options, "admin")}
  alias kubectl=${tool("kubectl")}
  kubectl run hello --image=busybox:1.36 --restart=Never -- sh -c 'uname -r; sleep 3600'
  kubectl logs -f hello

  logs: ${options.dir}/*.log      no cluster DNS; end it with: make cluster-down`);
};

const down = async () => {
  const cluster = await Cluster.found(options.dir);
  if (!cluster) return say(`no cluster in ${options.dir}`);
  await cluster.down();
  say("gone");
};

const command = { up, down }[process.argv[2] ?? ""];
if (!command) {
  console.error("usage: main.js up|down");
  process.exit(2);
}
await command().catch((err: Error) => {
  console.error(`cluster: ${err.message}`);
  process.exit(1);
});
