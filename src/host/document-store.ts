import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { PodvmError } from "./errors.js";
import { syncFolder, writeFileAtomic } from "./files.js";

/** What every stored document has. `version` grows when the shape changes in a way an older server cannot read. */
export interface StoredDocument {
  version: number;
  id: string;
}

/**
 * One JSON file per object in one folder: `<folder>/<id>.json`, replaced atomically. Writes to one id happen in the order
 * they were asked for. A document that cannot be read stops the load with its path: losing it silently would leak a VM.
 */
export class DocumentStore<T extends StoredDocument> {
  private readonly pending = new Map<string, Promise<void>>();

  constructor(
    private readonly folder: string,
    private readonly version: number,
  ) {}

  async load(): Promise<T[]> {
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    const documents: T[] = [];
    for (const name of await readdir(this.folder)) {
      const path = join(this.folder, name);
      if (name.endsWith(".tmp")) {
        await rm(path, { force: true }); // a write that a crash cut short: the old content still stands beside it
        continue;
      }
      if (!name.endsWith(".json")) continue;
      documents.push(this.parse(await readFile(path, "utf8"), path));
    }
    return documents;
  }

  /** Resolves when the document is durable. */
  put(document: T): Promise<void> {
    const text = JSON.stringify(document); // now: the caller may change the object while an earlier write is under way
    return this.enqueue(document.id, () => writeFileAtomic(this.path(document.id), text));
  }

  delete(id: string): Promise<void> {
    return this.enqueue(id, async () => {
      await rm(this.path(id), { force: true });
      await syncFolder(this.folder);
    });
  }

  private enqueue(id: string, work: () => Promise<void>): Promise<void> {
    const next = (this.pending.get(id) ?? Promise.resolve()).catch(() => {}).then(work);
    this.pending.set(id, next);
    const forget = () => {
      if (this.pending.get(id) === next) this.pending.delete(id);
    };
    next.then(forget, forget);
    return next;
  }

  private parse(text: string, path: string): T {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw new PodvmError("internal", `${path} is not JSON; move it away after looking what it described`, { cause });
    }
    const document = value as Partial<StoredDocument> | null;
    if (
      document?.version !== this.version ||
      typeof document.id !== "string" ||
      `${document.id}.json` !== path.split("/").at(-1)
    ) {
      throw new PodvmError(
        "internal",
        `${path}: wanted a version ${this.version} document with its own id, found version ${document?.version} id ${document?.id}`,
      );
    }
    return value as T;
  }

  private path(id: string): string {
    return join(this.folder, `${id}.json`);
  }
}
