/** What the files of registry tests share: one registry for each file, and how images get into it. */
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import { parseReference } from "../../src/image/reference.js";
import { startRegistry, type TestRegistry } from "../support/registry.js";
import { type Pushed, pushImage } from "../support/registry-push.js";
import { newRepository, randomLayer } from "./image-host.js";
import { type Fault, type FaultProxy, startProxy } from "./registry-proxy.js";

export const test = anyTest as TestFn;
export let registry: TestRegistry;

test.before(async () => {
  registry = await startRegistry();
});
test.after.always(() => registry?.stop());

export const namesFile = "names/names.json";

export async function pushed(
  options: Partial<Parameters<typeof pushImage>[0]> = {},
): Promise<Pushed & { repository: string }> {
  const repository = options.repository ?? newRepository();
  const layers = options.layers ?? [randomLayer(100_000), randomLayer(50_000)];
  return { repository, ...(await pushImage({ host: registry.host, tag: "1", ...options, repository, layers })) };
}

export async function proxied(t: ExecutionContext, fault?: Fault): Promise<FaultProxy> {
  const proxy = await startProxy(registry.url, fault);
  t.teardown(() => proxy.stop());
  return proxy;
}

export const ref = (host: string, { repository }: { repository: string }, name = ":1") =>
  parseReference(`${host}/${repository}${name}`);

/** What a failed pull must leave: nothing but, perhaps, the empty list of names. */
export function nothingLeft(t: ExecutionContext, files: string[]): void {
  t.deepEqual(
    files.filter((file) => file !== namesFile),
    [],
  );
}
