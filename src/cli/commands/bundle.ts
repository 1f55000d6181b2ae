import { Command } from "commander";
import { type CommonOptions, withConfig } from "../options.js";

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
  return bundle;
}
