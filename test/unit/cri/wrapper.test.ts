import { link, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Client,
  type ClientReadableStream,
  credentials,
  type Metadata,
  makeGenericClientConstructor,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import test, { type ExecutionContext } from "ava";
import type { Handlers, ImageHandlers, RuntimeHandlers } from "../../../src/cri/handlers.js";
import { type CriServerOptions, createCriServer } from "../../../src/cri/server.js";
import { toStatus } from "../../../src/cri/status.js";
import { unimplemented } from "../../../src/cri/unimplemented.js";
import * as cri from "../../../src/gen/runtime/v1/api.js";
import { PodvmError } from "../../../src/host/errors.js";
import type { Logger } from "../../../src/host/log.js";

interface Line {
  level: string;
  message: string;
  fields: Record<string, unknown>;
}

function recorder(lines: Line[], base: Record<string, unknown> = {}): Logger {
  const put = (level: string) => (message: string, fields?: Record<string, unknown>) => {
    lines.push({ level, message, fields: { ...base, ...fields } });
  };
  return {
    error: put("error"),
    warn: put("warn"),
    info: put("info"),
    debug: put("debug"),
    child: (fields) => recorder(lines, { ...base, ...fields }),
  };
}

function all<Service extends object>(service: Service, some: Partial<Handlers<Service>>): Handlers<Service> {
  const names = Object.entries(service) as [string, { path: string }][];
  const rest = names.map(([name, { path }]) => [name, unimplemented(path.slice(path.lastIndexOf("/") + 1))]);
  return { ...Object.fromEntries(rest), ...some } as Handlers<Service>;
}

const version = async () =>
  cri.VersionResponse.fromPartial({
    version: "0.1.0",
    runtimeName: "podvm",
    runtimeVersion: "1",
    runtimeApiVersion: "v1",
  });

interface Setup {
  path: string;
  lines: Line[];
  observed: { method: string; code: string; seconds: number }[];
  server: ReturnType<typeof createCriServer>;
  client: cri.RuntimeServiceClient;
  folder: string;
}

async function serve(
  t: ExecutionContext,
  runtime: Partial<RuntimeHandlers>,
  extra: Partial<CriServerOptions> = {},
): Promise<Setup> {
  const folder = await mkdtemp(join(tmpdir(), "podvm-cri-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "cri.sock");
  const lines: Line[] = [];
  const observed: Setup["observed"] = [];
  const server = createCriServer({
    runtime: all(cri.RuntimeServiceService, { version, ...runtime }),
    image: all(cri.ImageServiceService, {}) as ImageHandlers,
    socketPath: path,
    logger: recorder(lines),
    ready: () => true,
    observe: (method, code, seconds) => observed.push({ method, code, seconds }),
    ...extra,
  });
  await server.listen();
  t.teardown(() => server.close(100));
  const client = new cri.RuntimeServiceClient(`unix://${path}`, credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_send_message_length": -1,
  });
  t.teardown(() => client.close());
  return { path, lines, observed, server, client, folder };
}

function answer<T>(start: (done: (err: ServiceError | null, value: T) => void) => unknown): Promise<T> {
  return new Promise((resolve, reject) => start((err, value) => (err ? reject(err) : resolve(value))));
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !holds(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
}

test("a call is answered, counted and logged at debug", async (t) => {
  const { client, observed, lines } = await serve(t, {});
  const got = await answer<cri.VersionResponse>((done) => client.version({ version: "v1" }, done));
  t.is(got.runtimeName, "podvm");
  t.like(observed, [{ method: "Version", code: "OK" }]);
  t.true(lines.length >= 2 && lines.every((line) => line.level === "debug" && line.fields.method === "Version"));
  t.is(new Set(lines.map((line) => line.fields.requestId)).size, 1);
});

test("every error code becomes its gRPC status, with the message", async (t) => {
  const codes = {
    invalid_argument: status.INVALID_ARGUMENT,
    not_found: status.NOT_FOUND,
    already_exists: status.ALREADY_EXISTS,
    failed_precondition: status.FAILED_PRECONDITION,
    permission_denied: status.PERMISSION_DENIED,
    unauthenticated: status.UNAUTHENTICATED,
    resource_exhausted: status.RESOURCE_EXHAUSTED,
    deadline_exceeded: status.DEADLINE_EXCEEDED,
    unavailable: status.UNAVAILABLE,
    unimplemented: status.UNIMPLEMENTED,
    cancelled: status.CANCELLED,
    internal: status.INTERNAL,
  } as const;
  const { client } = await serve(t, {
    containerStatus: async ({ containerId }) => {
      throw new PodvmError(containerId as keyof typeof codes, `wanted x, found ${containerId}: do y\n%`);
    },
  });
  for (const [code, number] of Object.entries(codes)) {
    const err = await t.throwsAsync<ServiceError>(
      answer((done) => client.containerStatus({ containerId: code, verbose: false }, done)),
    );
    t.is(err?.code, number);
    t.is(err?.details, `wanted x, found ${code}: do y\n%`);
  }
});

test("a thrown stranger is internal and logged as an error with its stack; a refusal is only info", async (t) => {
  const { client, lines } = await serve(t, {
    startContainer: async () => {
      throw new TypeError("boom");
    },
    stopContainer: async () => {
      throw new PodvmError("not_found", "no container c");
    },
  });
  const err = await t.throwsAsync<ServiceError>(answer((done) => client.startContainer({ containerId: "c" }, done)));
  t.is(err?.code, status.INTERNAL);
  t.is(err?.details, "boom");
  const failure = lines.find((line) => line.level === "error");
  t.true(failure?.fields.err instanceof TypeError);
  t.is(failure?.fields.containerId, "c");
  await t.throwsAsync(answer((done) => client.stopContainer({ containerId: "c", timeout: 0n }, done)));
  t.is(lines.filter((line) => line.level === "error").length, 1);
  t.truthy(lines.find((line) => line.level === "info" && line.fields.code === "NOT_FOUND"));
});

test("an overlong message is cut, and an abort counts as cancelled", (t) => {
  t.true(toStatus(new PodvmError("internal", "x".repeat(100_000))).details.length < 5000);
  const abort = new AbortController();
  abort.abort();
  t.is(toStatus(abort.signal.reason instanceof Error ? abort.signal.reason : undefined).code, status.CANCELLED);
  t.is(toStatus("just a string").details, "just a string");
});

test("nothing secret of a request is logged", async (t) => {
  const { client, lines } = await serve(t, {
    createContainer: async () => cri.CreateContainerResponse.fromPartial({ containerId: "c1" }),
  });
  const request = cri.CreateContainerRequest.fromPartial({
    podSandboxId: "pod1",
    config: {
      metadata: { name: "web", attempt: 1 },
      image: { image: "docker.io/library/nginx:1" },
      envs: [{ key: "TOKEN", value: Buffer.from("hunter2") }],
      args: ["--password=hunter2"],
      annotations: { a: "hunter2" },
    },
  });
  await answer((done) => client.createContainer(request, done));
  const text = JSON.stringify(lines);
  t.false(text.includes("hunter2"));
  t.true(text.includes("pod1") && text.includes("web") && text.includes("docker.io/library/nginx:1"));
});

test("before recovery is done only Version and Status are answered", async (t) => {
  let ready = false;
  const { client } = await serve(
    t,
    {
      status: async () => cri.StatusResponse.fromPartial({}),
      listContainers: async () => cri.ListContainersResponse.fromPartial({}),
      getContainerEvents: async function* () {
        yield cri.ContainerEventResponse.fromPartial({ containerId: "c" });
      },
    },
    { ready: () => ready },
  );
  await answer((done) => client.version({ version: "" }, done));
  await answer((done) => client.status({ verbose: false }, done));
  const err = await t.throwsAsync<ServiceError>(answer((done) => client.listContainers({ filter: undefined }, done)));
  t.is(err?.code, status.UNAVAILABLE);
  const streamed = await t.throwsAsync<ServiceError>(drain(client.getContainerEvents({})));
  t.is(streamed?.code, status.UNAVAILABLE);
  ready = true;
  await answer((done) => client.listContainers({ filter: undefined }, done));
  t.is((await drain(client.getContainerEvents({}))).length, 1);
});

test("an RPC that is not built answers UNIMPLEMENTED with its name, streaming or not", async (t) => {
  const { client } = await serve(t, {});
  const err = await t.throwsAsync<ServiceError>(
    answer((done) => client.checkpointContainer({ containerId: "c", location: "", timeout: 0n }, done)),
  );
  t.is(err?.code, status.UNIMPLEMENTED);
  t.regex(err?.details ?? "", /CheckpointContainer/);
  const streamed = await t.throwsAsync<ServiceError>(drain(client.getContainerEvents({})));
  t.is(streamed?.code, status.UNIMPLEMENTED);
  t.regex(streamed?.details ?? "", /GetContainerEvents/);
});

function drain<T>(stream: ClientReadableStream<T>): Promise<T[]> {
  return new Promise((resolve, reject) => {
    const items: T[] = [];
    stream.on("data", (item: T) => items.push(item));
    stream.on("error", reject);
    stream.on("end", () => resolve(items));
  });
}

test("a stream's items arrive in order, and its failure after some of them as a status", async (t) => {
  const { client } = await serve(t, {
    getContainerEvents: async function* () {
      for (let i = 0; i < 5000; i++) yield cri.ContainerEventResponse.fromPartial({ containerId: `c${i}` });
      throw new PodvmError("resource_exhausted", "enough");
    },
  });
  const stream = client.getContainerEvents({});
  const seen: string[] = [];
  const err = await new Promise<ServiceError>((resolve) => {
    stream.on("data", (event: cri.ContainerEventResponse) => seen.push(event.containerId));
    stream.on("error", resolve);
  });
  t.is(err.code, status.RESOURCE_EXHAUSTED);
  t.deepEqual(
    seen,
    Array.from({ length: 5000 }, (_, i) => `c${i}`),
  );
});

test("a client that goes away aborts the signal and returns the stream's generator", async (t) => {
  let reason: unknown;
  let returned = false;
  const { client, observed } = await serve(t, {
    getContainerEvents: async function* (_, ctx) {
      try {
        yield cri.ContainerEventResponse.fromPartial({ containerId: "first" });
        await new Promise<void>((resolve) => ctx.signal.addEventListener("abort", () => resolve()));
        reason = ctx.signal.reason;
      } finally {
        returned = true;
      }
    },
  });
  const stream = client.getContainerEvents({});
  stream.on("error", () => {});
  await new Promise((resolve) => stream.once("data", resolve));
  stream.cancel();
  await until(() => returned && observed.length > 0);
  t.true(returned);
  t.is((reason as PodvmError).code, "cancelled");
  t.is(observed[0]?.code, "CANCELLED");
});

test("the client's deadline is known to the handler and ends the call", async (t) => {
  let seen: Date | undefined;
  let reason: PodvmError | undefined;
  const { client, observed } = await serve(t, {
    runPodSandbox: async (_, ctx) => {
      seen = ctx.deadline;
      await new Promise((resolve) => ctx.signal.addEventListener("abort", resolve));
      reason = ctx.signal.reason;
      throw reason;
    },
    version: async (_, ctx) => {
      t.is(ctx.deadline, undefined);
      return version();
    },
  });
  await answer((done) => client.version({ version: "" }, done));
  const metadata = new (await import("@grpc/grpc-js")).Metadata() as Metadata;
  const deadline = Date.now() + 300;
  const err = await t.throwsAsync<ServiceError>(
    answer((done) => client.runPodSandbox({ config: undefined, runtimeHandler: "" }, metadata, { deadline }, done)),
  );
  t.is(err?.code, status.DEADLINE_EXCEEDED);
  await until(() => observed.length > 1);
  t.true(seen !== undefined && Math.abs(seen.getTime() - deadline) < 2000);
  t.true(reason?.code === "deadline_exceeded" || reason?.code === "cancelled");
});

test("a request over the size limit is refused and the connection goes on", async (t) => {
  const { client } = await serve(t, { execSync: async () => cri.ExecSyncResponse.fromPartial({}) });
  const err = await t.throwsAsync<ServiceError>(
    answer((done) => client.execSync({ containerId: "c", cmd: ["x".repeat(17 << 20)], timeout: 0n }, done)),
  );
  t.is(err?.code, status.RESOURCE_EXHAUSTED);
  await answer((done) => client.version({ version: "" }, done));
});

test("the socket has its mode, and nothing else is left beside it", async (t) => {
  const { path, folder } = await serve(t, {}, { socketMode: 0o660 });
  t.is((await stat(path)).mode & 0o777, 0o660);
  t.deepEqual(await readdir(folder), ["cri.sock"]);
  const other = await serve(t, {});
  t.is((await stat(other.path)).mode & 0o777, 0o600);
});

test("a live server's socket is refused, a dead one's replaced, a file left alone", async (t) => {
  const first = await serve(t, {});
  const options = {
    runtime: all(cri.RuntimeServiceService, { version }),
    image: all(cri.ImageServiceService, {}) as ImageHandlers,
    logger: recorder([]),
    ready: () => true,
  };
  const second = createCriServer({ ...options, socketPath: first.path });
  const refused = await t.throwsAsync<PodvmError>(second.listen());
  t.is(refused?.code, "failed_precondition");
  t.regex(refused?.message ?? "", /another server answers/);
  await answer((done) => first.client.version({ version: "" }, done));

  const dead = join(first.folder, "dead.sock");
  // A listener whose path was hard-linked away: closing it unlinks only its own name, as a killed process leaves one.
  const corpse = net.createServer().listen(`${dead}.own`);
  await new Promise((resolve) => corpse.once("listening", resolve));
  await link(`${dead}.own`, dead);
  await new Promise((resolve) => corpse.close(resolve));
  const third = createCriServer({ ...options, socketPath: dead });
  await third.listen();
  t.true((await stat(dead)).isSocket());
  await third.close(100);
  await t.throwsAsync(stat(dead), { code: "ENOENT" });

  const file = join(first.folder, "file");
  await writeFile(file, "precious");
  const fourth = createCriServer({ ...options, socketPath: file });
  t.regex((await t.throwsAsync(fourth.listen()))?.message ?? "", /is no socket/);
  t.is((await stat(file)).size, 8);
});

test("close ends event streams at once and lets a running call finish", async (t) => {
  let letGo = () => {};
  const gone = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const { client, server } = await serve(t, {
    getContainerEvents: async function* (_, ctx) {
      yield cri.ContainerEventResponse.fromPartial({ containerId: "c" });
      await new Promise<void>((resolve) => ctx.signal.addEventListener("abort", () => resolve()));
    },
    startContainer: async () => {
      await gone;
      return cri.StartContainerResponse.fromPartial({});
    },
  });
  const stream = client.getContainerEvents({});
  const ended = new Promise<ServiceError>((resolve) => stream.once("error", resolve));
  await new Promise((resolve) => stream.once("data", resolve));
  const call = answer<cri.StartContainerResponse>((done) => client.startContainer({ containerId: "c" }, done));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const closed = server.close(30_000);
  t.is((await ended).code, status.UNAVAILABLE);
  letGo();
  await t.notThrowsAsync(call);
  await t.notThrowsAsync(closed);
});

test("close cuts a call that does not end in time", async (t) => {
  const { client, server, lines } = await serve(t, { startContainer: () => new Promise(() => {}) });
  const call = answer((done) => client.startContainer({ containerId: "c" }, done));
  call.catch(() => {});
  await until(() => lines.some((line) => line.fields.method === "StartContainer"));
  await server.close(50);
  await t.throwsAsync(call);
  t.true(lines.some((line) => line.level === "warn"));
});

test("a generic client finds both services by reflection", async (t) => {
  const { path } = await serve(t, {});
  // The reflection package's own definition gives the client; nothing else of it is used here.
  let definition: Parameters<typeof makeGenericClientConstructor>[0] | undefined;
  new ReflectionService(loadSync([])).addToServer({
    addService: (service) => {
      definition ??= service;
    },
  });
  if (!definition) return t.fail("no reflection service");
  const Generic = makeGenericClientConstructor(definition, "reflection");
  const client = new Generic(`unix://${path}`, credentials.createInsecure()) as Client &
    Record<string, () => import("@grpc/grpc-js").ClientDuplexStream<object, Record<string, unknown>>>;
  t.teardown(() => client.close());
  const stream = client.ServerReflectionInfo?.();
  if (!stream) return t.fail("no method");
  stream.on("error", () => {});
  const ask = (message: object) =>
    new Promise<Record<string, unknown>>((resolve) => {
      stream.once("data", resolve);
      stream.write(message);
    });
  const names = JSON.stringify(await ask({ listServices: "*" }));
  t.true(names.includes("runtime.v1.RuntimeService") && names.includes("runtime.v1.ImageService"));
  const file = JSON.stringify(await ask({ fileContainingSymbol: "runtime.v1.RuntimeService" }));
  t.true(file.length > 10_000);
  stream.end();
});
