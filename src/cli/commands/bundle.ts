import { Command } from "commander";
import { type ClientOptions, type CommonOptions, withConfig, withServer } from "../options.js";

export function bundleCommand(): Command {
  const bundle = new Command("bundle").description(
    "The runtime bundle: hypervisor, guest kernel and tools of PodVM's own.",
  );
  bundle.addCommand(
    withConfig(new Command("list"))
      .description("Versions of what the bundle and the guest image hold.")
      .option("--json", "as JSON, with every package")
      .action(async (options: CommonOptions & { json?: boolean }) => {
        await (await import("../show-bundle.js")).showBundle(options);
      }),
    { isDefault: true },
  );
  bundle.addCommand(
    withServer(new Command("prune"))
      .description("Remove versions that are neither current nor used by the server, a pod or a running VM.")
      .action(async (options: ClientOptions) => {
        await (await import("../prune-bundle.js")).pruneBundle(options);
      }),
  );
  return bundle;
}
