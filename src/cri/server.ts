/** The CRI socket: both services through the wrapper, gRPC reflection, and an orderly end. */
import { existsSync } from "node:fs";
import { chmod, chown, lstat, mkdir, mkdtemp, rename, rm, unlink } from "node:fs/promises";
import { createRequire } from "node:module";
import net from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Server, ServerCredentials, type ServiceDefinition } from "@grpc/grpc-js";
import type * as ProtoLoader from "@grpc/proto-loader";
import type * as Reflection from "@grpc/reflection";
import { ImageServiceService, RuntimeServiceService } from "../gen/runtime/v1/api.js";
import { errno, messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { Handlers, ImageHandlers, RuntimeHandlers } from "./handlers.js";
import { type TraceHook, wrapService } from "./wrapper.js";

/** What kubelet's client uses, in both directions. */
export const MAX_MESSAGE_BYTES = 16 << 20;

export interface CriServerOptions {
  runtime: RuntimeHandlers;
  image: ImageHandlers;
  socketPath: string;
  /** Permission bits of the socket from its first moment on. Default 0600. */
  socketMode?: number;
  /** Group of the socket. Default: the process's. */
  socketGid?: number;
  logger: Logger;
  ready: () => boolean;
  observe?: (method: string, code: string, seconds: number) => void;
  trace?: TraceHook;
  /** Further services of ours on the same socket, behind the same wrapper. */
  services?: { definition: ServiceDefinition; handlers: unknown }[];
}

export interface CriServer {
  /** Makes the socket and answers on it. failed_precondition where another server answers there, or the path is no socket. */
  listen(): Promise<void>;
  /** Serves a connection accepted elsewhere. */
  inject(socket: net.Socket): void;
  /**
   * Takes no more connections, ends streams, waits for running calls; after `deadlineMs` milliseconds cuts what is left. The socket
   * is gone afterwards. Idempotent.
   */
  close(deadlineMs: number): Promise<void>;
}

export function createCriServer(options: CriServerOptions): CriServer {
  const { socketPath, socketMode = 0o600, socketGid, logger } = options;
  const stopping = new AbortController();
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
  });
  const wrapping = { ...options, stopping: stopping.signal };
  server.addService(RuntimeServiceService, wrapService(RuntimeServiceService, options.runtime, wrapping));
  server.addService(ImageServiceService, wrapService(ImageServiceService, options.image, wrapping));
  for (const { definition, handlers } of options.services ?? []) {
    server.addService(definition, wrapService(definition, handlers as Handlers<typeof definition>, wrapping));
  }
  addReflection(server);

  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const inject = (socket: net.Socket) => {
    socket.on("error", (err) => logger.debug("client connection", { err }));
    injector.injectConnection(socket);
  };
  const listener = net.createServer(inject);
  let inode: bigint | undefined;
  let closed: Promise<void> | undefined;

  const shutDown = async (deadlineMs: number) => {
    stopping.abort();
    if (inode !== undefined) await removeOwnSocket(socketPath, inode);
    const unlistened = new Promise<void>((resolve) => listener.close(() => resolve()));
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        logger.warn("calls still running at the end of the server's grace time: cutting them", { deadlineMs });
        server.forceShutdown();
        resolve();
      }, deadlineMs);
      server.tryShutdown(() => resolve());
    });
    clearTimeout(timer);
    server.forceShutdown(); // after a complete tryShutdown: only frees what it keeps
    injector.destroy();
    await Promise.race([unlistened, new Promise<void>((resolve) => setTimeout(resolve, 1000).unref())]);
  };

  return {
    async listen() {
      await removeStaleSocket(socketPath);
      inode = await listenAt(listener, socketPath, socketMode, socketGid);
      listener.on("error", (err) => logger.error("CRI socket", { err }));
    },
    inject,
    close(deadlineMs) {
      closed ??= shutDown(deadlineMs);
      return closed;
    },
  };
}

/** Longest path that sockaddr_un holds. */
const MAX_SOCKET_PATH = 107;

/**
 * Listens at `path`, answers the socket's inode. The socket is made in a folder that only we may enter, gets its mode there, and is then
 * renamed into place: at no moment can anyone else connect through a laxer mode, whatever the process's umask.
 */
async function listenAt(listener: net.Server, path: string, mode: number, gid?: number): Promise<bigint> {
  const folder = dirname(path);
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH || Buffer.byteLength(folder) + 12 > MAX_SOCKET_PATH) {
    throw new PodvmError("invalid_argument", `socket path ${path}: longer than ${MAX_SOCKET_PATH} bytes`);
  }
  await mkdir(folder, { recursive: true });
  const lobby = await mkdtemp(join(folder, ".cri-"));
  try {
    const made = join(lobby, "s");
    await new Promise<void>((resolve, reject) => {
      listener.once("error", reject);
      listener.listen(made, () => {
        listener.off("error", reject);
        resolve();
      });
    });
    if (gid !== undefined) await chown(made, process.getuid?.() ?? 0, gid);
    await chmod(made, mode);
    const { ino } = await lstat(made, { bigint: true });
    await rename(made, path);
    return ino;
  } catch (err) {
    listener.close();
    throw new PodvmError("internal", `cannot listen on ${path}: ${messageOf(err)}`, { cause: err });
  } finally {
    await rm(lobby, { recursive: true, force: true });
  }
}

/** Unlinks the socket unless another server has put its own there. */
async function removeOwnSocket(path: string, ino: bigint): Promise<void> {
  try {
    if ((await lstat(path, { bigint: true })).ino === ino) await unlink(path);
  } catch (err) {
    if (errno(err) !== "ENOENT") throw err;
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  let found: Awaited<ReturnType<typeof lstat>>;
  try {
    found = await lstat(path);
  } catch (err) {
    if (errno(err) === "ENOENT") return;
    throw err;
  }
  if (!found.isSocket()) {
    throw new PodvmError(
      "failed_precondition",
      `${path} exists and is no socket: remove it, or choose another socket path`,
    );
  }
  if (await answers(path)) {
    throw new PodvmError(
      "failed_precondition",
      `another server answers on ${path}: stop it first, or choose another path`,
    );
  }
  await unlink(path).catch((err) => {
    if (errno(err) !== "ENOENT") throw err;
  });
}

/** True also for a server too busy to accept within a second: only a refusal proves that nobody listens. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(path);
    const done = (alive: boolean) => {
      clearTimeout(timer);
      probe.destroy();
      resolve(alive);
    };
    const timer = setTimeout(() => done(true), 1000);
    probe.once("connect", () => done(true));
    probe.once("error", (err) => done(!["ECONNREFUSED", "ENOENT"].includes(errno(err) ?? "")));
  });
}

const REFLECTION_PATHS = [
  "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
  "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

type ServiceArguments = Parameters<Server["addService"]>;

/** Reflection parses the CRI's proto file (some 0.1 s): only when a client first asks. */
function addReflection(server: Server): void {
  const loaded = new Map<string, { definition: ServiceArguments[0][string]; handler: unknown }>();
  const method = (path: string) => {
    if (loaded.size === 0) {
      loadReflection((service, implementation) => {
        for (const [name, definition] of Object.entries(service)) {
          const handler = implementation[name] ?? implementation[definition.originalName ?? name];
          loaded.set(definition.path, { definition, handler });
        }
      });
    }
    const found = loaded.get(path);
    if (!found) throw new PodvmError("unimplemented", `reflection does not serve ${path}`);
    return found;
  };
  for (const path of REFLECTION_PATHS) {
    server.register(
      path,
      ((call: unknown) => (method(path).handler as (call: unknown) => void)(call)) as never,
      (value: unknown) => method(path).definition.responseSerialize(value),
      (bytes: Buffer) => method(path).definition.requestDeserialize(bytes),
      "bidi",
    );
  }
}

function loadReflection(add: (...args: ServiceArguments) => void): void {
  const require = createRequire(import.meta.url);
  const { loadSync } = require("@grpc/proto-loader") as typeof ProtoLoader;
  const { ReflectionService } = require("@grpc/reflection") as typeof Reflection;
  const root = protoFolder();
  new ReflectionService(loadSync("runtime/v1/api.proto", { includeDirs: [root], keepCase: true })).addToServer({
    addService: add,
  });
}

/** The CRI's folder below proto/ of the package that this file belongs to, be it run from a build folder or not. */
function protoFolder(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const found = join(folder, "proto/cri");
    if (existsSync(join(found, "runtime/v1/api.proto"))) return found;
    if (folder === dirname(folder)) {
      throw new PodvmError("not_found", "proto/cri/runtime/v1/api.proto is not in the package: reinstall PodVM");
    }
  }
}
