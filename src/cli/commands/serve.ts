import { Command } from "commander";
import { type CommonOptions, withConfig } from "../options.js";

export function serveCommand(): Command {
  return withConfig(new Command("serve"))
    .description("Run the CRI server in the foreground. VMs outlive it: started again, it goes on with them.")
    .action(async (options: CommonOptions) => {
      const { loadConfig } = await import("../../config/config.js");
      const config = await loadConfig(options.config);
      const { serve } = await import("../../serve.js");
      await serve({ config, ...(options.config === undefined ? {} : { configPath: options.config }) });
    });
}
