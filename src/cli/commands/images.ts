import { Command } from "commander";
import { type ClientOptions, withServer } from "../options.js";

type Options = ClientOptions & { json?: boolean };

export function imagesCommand(): Command {
  const list = async (options: Options) => (await import("../images.js")).listImages(options);
  const images = new Command("images").description("List, pull and remove images.").enablePositionalOptions();
  images.addCommand(
    withServer(new Command("ls")).description("List the images in the store.").option("--json", "as JSON").action(list),
    { isDefault: true },
  );
  images.addCommand(
    withServer(new Command("pull"))
      .description("Pull an image, with progress.")
      .argument("<image>", "busybox, ghcr.io/owner/name:tag, name@sha256:…")
      .option("-q, --quiet", "print the image's id only")
      .option("--json", "progress and result as one JSON object a line")
      .action(async (image: string, options: Options & { quiet?: boolean }) => {
        await (await import("../images.js")).pullCommand(image, options);
      }),
  );
  images.addCommand(
    withServer(new Command("rm"))
      .description("Remove images: a name goes, and with its last name, or by id, the image.")
      .argument("<image...>", "names or ids")
      .action(async (names: string[], options: Options) => {
        await (await import("../images.js")).removeImages(names, options);
      }),
  );
  return images;
}
