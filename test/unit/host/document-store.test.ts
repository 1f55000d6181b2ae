import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { DocumentStore } from "../../../src/host/document-store.js";

interface Doc {
  version: number;
  id: string;
  value: number;
}

async function folder(t: { teardown: (fn: () => Promise<void>) => void }): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "podvm-docs-"));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

test("documents come back as they were written, the last write last", async (t) => {
  const path = await folder(t);
  const store = new DocumentStore<Doc>(path, 1);
  await store.load();
  await Promise.all([1, 2, 3, 4, 5].map((value) => store.put({ version: 1, id: "a", value })));
  await store.put({ version: 1, id: "b", value: 7 });
  const again = await new DocumentStore<Doc>(path, 1).load();
  t.deepEqual(again.map((doc) => [doc.id, doc.value]).sort(), [
    ["a", 5],
    ["b", 7],
  ]);
});

test("a document changed after put is written as it was at the call", async (t) => {
  const path = await folder(t);
  const store = new DocumentStore<Doc>(path, 1);
  const doc = { version: 1, id: "a", value: 1 };
  const first = store.put(doc);
  doc.value = 2;
  await first;
  t.is((await new DocumentStore<Doc>(path, 1).load())[0]?.value, 1);
});

test("what a crash left of a write is removed, and a deleted document stays away", async (t) => {
  const path = await folder(t);
  const store = new DocumentStore<Doc>(path, 1);
  await store.load();
  await store.put({ version: 1, id: "a", value: 1 });
  await writeFile(join(path, "a.json.0123.tmp"), "{half");
  await store.delete("a");
  await store.delete("a");
  t.deepEqual(await new DocumentStore<Doc>(path, 1).load(), []);
  t.deepEqual(await readdir(path), []);
});

for (const [what, content] of [
  ["cut short", '{"version":1,'],
  ["of another version", '{"version":2,"id":"a"}'],
  ["of another id", '{"version":1,"id":"b"}'],
  ["that is null", "null"],
] as const) {
  test(`a document ${what} stops the load and is named`, async (t) => {
    const path = await folder(t);
    await writeFile(join(path, "a.json"), content);
    const err = await t.throwsAsync(new DocumentStore<Doc>(path, 1).load());
    t.true(err?.message.includes(join(path, "a.json")));
  });
}
