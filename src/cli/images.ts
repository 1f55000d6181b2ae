import { call } from "./client.js";
import { withClients } from "./connect.js";
import type { ClientOptions } from "./options.js";
import { jsonText, printJson, shortId, size, table } from "./output.js";
import { ProgressLine, pull } from "./pull.js";

type Options = ClientOptions & { json?: boolean };

export async function listImages(options: Options): Promise<void> {
  await withClients(options, async (clients) => {
    const { images } = await call(clients, clients.image, "listImages", {});
    if (options.json) {
      const plain = images.map(({ id, repoTags, repoDigests, size: bytes, pinned }) => {
        return { id, repoTags, repoDigests, sizeBytes: bytes, pinned };
      });
      return printJson(plain);
    }
    const rows = images.flatMap((image) => {
      const names =
        image.repoTags.length > 0 ? image.repoTags : image.repoDigests.length > 0 ? image.repoDigests : ["-"];
      return names.map((name) => [name, shortId(image.id), size(Number(image.size))]);
    });
    process.stdout.write(
      table(
        ["IMAGE", "ID", "SIZE"],
        rows.sort((a, b) => ((a[0] ?? "") < (b[0] ?? "") ? -1 : 1)),
      ),
    );
  });
}

export async function pullCommand(image: string, options: Options & { quiet?: boolean }): Promise<void> {
  const interrupted = new AbortController();
  const onSignal = () => interrupted.abort();
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  const line = new ProgressLine(image);
  const json = (value: object) => process.stdout.write(`${jsonText(value)}\n`);
  const show = options.json ? (progress: object) => void json({ progress }) : options.quiet ? () => {} : line.show;
  try {
    await withClients(options, async (clients) => {
      const done = await pull(clients, image, show, interrupted.signal);
      line.end();
      if (options.json) json({ done });
      else if (options.quiet) process.stdout.write(`${done.imageId}\n`);
      else process.stdout.write(`${[`pulled ${image}`, shortId(done.imageId), ...done.repoDigests].join("  ")}\n`);
    });
  } finally {
    line.end();
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

export async function removeImages(names: string[], options: Options): Promise<void> {
  await withClients(options, async (clients) => {
    for (const name of names) {
      const image = { image: name, annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" };
      await call(clients, clients.image, "removeImage", { image });
    }
  });
}
