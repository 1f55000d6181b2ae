/** kube-proxy's chains. `kube-proxy --cleanup` leaves some (KUBE-FIREWALL): to a kubelet of before 1.28 they would be its own. */
import { join } from "node:path";
import { bundleTool } from "../../src/host/assets.js";
import { run } from "../../src/host/run.js";
import { tool } from "../support/tools.js";

const programs = ["iptables", "ip6tables"];
const path = (program: string) => bundleTool({ bundle: join(tool("assets"), "bundle/current") }, program);

/** Names of the chains with Kubernetes' prefix, of all tables and both families, each once. */
export async function kubernetesChains(): Promise<string[]> {
  const found = new Set<string>();
  for (const program of programs) {
    const { stdout } = await run([path(`${program}-save`)], { maxOutput: 16 << 20 });
    for (const [, name] of stdout.matchAll(/^:(KUBE-\S+)/gm)) found.add(name as string);
  }
  return [...found].sort();
}

/** Removes all of them but `keep`, and the rules that lead to them. */
export async function removeChains(keep: string[]): Promise<void> {
  for (const program of programs) {
    const { stdout } = await run([path(`${program}-save`)], { maxOutput: 16 << 20 });
    let table = "";
    let commands: string[] = [];
    for (const line of stdout.split("\n")) {
      if (line.startsWith("*")) [table, commands] = [line, []];
      const jump = /^-A (\S+) .*-[jg] (KUBE-\S+)/.exec(line);
      const chain = /^:(KUBE-\S+)/.exec(line)?.[1];
      if (chain && !keep.includes(chain)) commands.push(`-F ${chain}`, `-X ${chain}`);
      if (jump && !keep.includes(jump[2] as string)) commands.unshift(line.replace(/^-A/, "-D"));
      if (line === "COMMIT" && commands.length > 0) {
        // Rules first, then all chains emptied, then removed: a chain that another leads to cannot go.
        const order = [/^-D/, /^-F/, /^-X/].flatMap((kind) => commands.filter((command) => kind.test(command)));
        await run([path(`${program}-restore`), "-w", "-n"], { input: `${table}\n${order.join("\n")}\nCOMMIT\n` });
      }
    }
  }
}
