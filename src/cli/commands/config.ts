import { Command } from "commander";
import { type CommonOptions, withConfig } from "../options.js";

export function configCommand(): Command {
  const config = new Command("config").description("The configuration file.");
  config.addCommand(
    withConfig(new Command("init"))
      .description("Write a commented configuration file, and a CNI network where there is none. What exists is kept.")
      .action(async (options: CommonOptions) => (await import("../config-file.js")).initConfig(options)),
  );
  config.addCommand(
    withConfig(new Command("show"))
      .description("Print the configuration in effect, defaults included, as JSON.")
      .action(async (options: CommonOptions) => (await import("../config-file.js")).showConfig(options)),
  );
  config.addCommand(
    withConfig(new Command("check"))
      .description("Check the configuration file; every fault is listed.")
      .action(async (options: CommonOptions) => (await import("../config-file.js")).checkConfig(options)),
  );
  return config;
}
