/** `podvm check`. */
import { type Config, loadConfig } from "../../config/config.js";
import type { Assets } from "../../host/assets.js";
import { messageOf } from "../../host/errors.js";
import { locateAssets } from "../../host/locate-assets.js";
import { Exit, exitCodes } from "../exit.js";
import type { CommonOptions } from "../options.js";
import { printJson } from "../output.js";
import { type Finding, fail, formatFindings, ok } from "./finding.js";
import { hostPodFindings } from "./host-pods.js";
import { cpuFindings, hypervisorFindings } from "./hypervisor.js";
import { cgroupFinding, networkFindings, tunFinding } from "./kernel.js";
import {
  assetFindings,
  cniFinding,
  configRelaxations,
  diskFinding,
  ksmFinding,
  passableFinding,
  serverFindings,
} from "./node-state.js";

/** Prints what was found; throws Exit(1) where something is missing. A faulty configuration rejects as in every command. */
export async function check(options: CommonOptions & { json?: boolean }): Promise<void> {
  const config = await loadConfig(options.config);
  const findings = await look(config);
  const usable = !findings.some((one) => one.state === "fail");
  if (options.json) {
    printJson({ usable, findings });
  } else {
    const warnings = findings.filter((one) => one.state === "warn").length;
    const failures = findings.filter((one) => one.state === "fail").length;
    const verdict = usable ? `ready, ${warnings} warnings` : `not ready: ${failures} missing, ${warnings} warnings`;
    process.stdout.write(`${formatFindings(findings)}\n\n${verdict}\n`);
  }
  if (!usable) throw new Exit(exitCodes.failed);
}

async function look(config: Config): Promise<Finding[]> {
  const findings = [rootFinding(), ...(await cpuFindings()), await cgroupFinding(), await tunFinding()];
  const assets: Assets | Finding = await locateAssets(config.assetsDir).catch((err) => fail("assets", messageOf(err)));
  if ("state" in assets) {
    // Hypervisor, network tools and CNI plugins are part of what is missing.
    findings.push(assets);
  } else {
    findings.push(...(await assetFindings(assets)), ...(await hypervisorFindings(config, assets)));
    findings.push(...(await networkFindings(config, assets)), await cniFinding(config, assets));
  }
  if (!("state" in assets)) findings.push(...(await hostPodFindings(config, assets)));
  findings.push(await diskFinding(config), await passableFinding(config), ...(await serverFindings(config)));
  findings.push(...configRelaxations(config), ...(await ksmFinding()));
  return findings;
}

function rootFinding(): Finding {
  const uid = process.getuid?.() ?? -1;
  if (uid === 0) return ok("root", "yes");
  return fail(
    "root",
    `uid ${uid}`,
    "run it with sudo: namespaces, cgroups and mounts need it, and so does part of this check",
  );
}
