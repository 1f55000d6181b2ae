import { PodvmError } from "../../host/errors.js";
import { type Clients, call } from "../client.js";
import type { RunOptions } from "../commands/run.js";
import { ProgressLine, pull } from "../pull.js";

/** Id of the image, pulled where the options ask for it; `signal` cancels the pull. */
export async function ensureImage(
  clients: Clients,
  image: string,
  options: Pick<RunOptions, "pull" | "quiet">,
  signal: AbortSignal,
): Promise<string> {
  if (options.pull !== "always") {
    const spec = { image, annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" };
    const answer = await call(clients, clients.image, "imageStatus", { image: spec, verbose: false });
    if (answer.image) return answer.image.id;
    if (options.pull === "never") {
      throw new PodvmError(
        "not_found",
        `image ${image}: wanted it in the store (--pull never), found none; pull it: podvm images pull ${image}`,
      );
    }
  }
  const line = new ProgressLine(image);
  try {
    return (await pull(clients, image, options.quiet ? () => {} : line.show, signal)).imageId;
  } finally {
    line.end();
  }
}
