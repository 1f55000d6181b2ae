/**
 * QEMU's machine protocol over a unix socket: JSON lines, a greeting, then commands with ids, answers and events. The other
 * end is untrusted: lines are bounded, every command has a deadline, and anything out of form ends the connection.
 */
import { connect as connectSocket, type Socket } from "node:net";
import * as v from "valibot";
import { withDeadline } from "../../host/deadline.js";
import { PodvmError } from "../../host/errors.js";

const Message = v.union([
  v.object({ QMP: v.object({ version: v.object({ package: v.string() }) }) }),
  v.object({ event: v.pipe(v.string(), v.maxLength(64)), data: v.optional(v.record(v.string(), v.unknown()), {}) }),
  v.object({ return: v.unknown(), id: v.number() }),
  v.object({
    error: v.object({ class: v.string(), desc: v.pipe(v.string(), v.maxLength(4096)) }),
    id: v.optional(v.number()),
  }),
]);

type Answer = Extract<v.InferOutput<typeof Message>, { return: unknown } | { error: unknown }>;

export interface QmpEvent {
  name: string;
  data: Record<string, unknown>;
}

/** A command was refused by QEMU itself; the connection is in order. */
export class QmpRefused extends PodvmError {
  /** "GenericError", "DeviceNotFound", "CommandNotFound" … */
  readonly qmpClass: string;

  constructor(command: string, qmpClass: string, description: string) {
    super("internal", `QEMU refused ${command}: ${description}`);
    this.qmpClass = qmpClass;
  }
}

/** query-named-block-nodes with a hundred disks is some 100 KiB. */
const MAX_LINE = 4 << 20;

interface Pending {
  command: string;
  resolve(value: unknown): void;
  reject(err: PodvmError): void;
}

export class Qmp {
  /** Resolves when the connection is over, with the reason. Never rejects. */
  readonly closed: Promise<PodvmError>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #greeted!: () => void;
  readonly #greeting = new Promise<void>((resolve) => {
    this.#greeted = resolve;
  });
  #over?: PodvmError;
  #end!: (why: PodvmError) => void;
  #chunks: Buffer[] = [];
  #length = 0;
  #nextId = 1;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      this.#end = (why) => {
        if (this.#over) return;
        this.#over = why;
        this.#socket.destroy();
        for (const { reject } of this.#pending.values()) reject(why);
        this.#pending.clear();
        resolve(why);
      };
    });
    socket.on("data", (data) => this.#receive(data));
    socket.on("error", (err) => this.#end(new PodvmError("unavailable", `QMP: ${err.message}`, { cause: err })));
    socket.on("close", () => this.#end(new PodvmError("unavailable", "QMP: the VMM closed the connection")));
  }

  /**
   * Connects, awaits the greeting, leaves negotiation mode. QEMU talks to one client at a time and takes the next when the first
   * is gone. Rejects with unavailable where nobody listens, deadline_exceeded where nobody answers.
   */
  static async connect(path: string, deadlineMs: number): Promise<Qmp> {
    const end = performance.now() + deadlineMs;
    const qmp = new Qmp(connectSocket(path));
    const whenOver = qmp.closed.then((why) => Promise.reject(why));
    try {
      await withDeadline(Promise.race([qmp.#greeting, whenOver]), deadlineMs, `QMP greeting on ${path}`);
      await qmp.execute("qmp_capabilities", {}, Math.max(1, end - performance.now()));
      return qmp;
    } catch (err) {
      qmp.close();
      throw err;
    }
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The command's `return`. Rejects with QmpRefused, deadline_exceeded (the answer is then dropped when it comes) or unavailable. */
  async execute(command: string, args: Record<string, unknown>, deadlineMs: number): Promise<unknown> {
    if (this.#over) throw this.#over;
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
    return await withDeadline(answer, deadlineMs, `QMP ${command}`);
  }

  close(): void {
    this.#end(new PodvmError("cancelled", "QMP: closed by the server"));
  }

  #receive(data: Buffer): void {
    let rest = data;
    for (let cut = rest.indexOf(10); cut >= 0 && !this.#over; cut = rest.indexOf(10)) {
      this.#line(Buffer.concat([...this.#chunks, rest.subarray(0, cut)]).toString("utf8"));
      this.#chunks = [];
      this.#length = 0;
      rest = rest.subarray(cut + 1);
    }
    this.#chunks.push(rest);
    this.#length += rest.length;
    if (this.#length > MAX_LINE) this.#malformed(`a line longer than ${MAX_LINE} bytes`);
  }

  #line(line: string): void {
    const message = parse(line);
    if (typeof message === "string") this.#malformed(message);
    else if ("QMP" in message) this.#greeted();
    else if ("event" in message) {
      for (const listener of this.#listeners) listener({ name: message.event, data: message.data });
    } else this.#answer(message);
  }

  #answer(message: Answer): void {
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (message.id === undefined || !pending) {
      this.#malformed("an answer to no command");
      return;
    }
    this.#pending.delete(message.id);
    if ("error" in message) {
      pending.reject(new QmpRefused(pending.command, message.error.class, message.error.desc));
    } else pending.resolve(message.return);
  }

  #malformed(what: string): void {
    this.#end(new PodvmError("unavailable", `QMP: the VMM sent ${what}`));
  }
}

/** The message, or what is wrong with the line. */
function parse(line: string): v.InferOutput<typeof Message> | string {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    return `no JSON: ${JSON.stringify(line.slice(0, 100))}`;
  }
  const parsed = v.safeParse(Message, json);
  return parsed.success ? parsed.output : `neither greeting, answer nor event: ${JSON.stringify(line.slice(0, 100))}`;
}
