/** The winston logger behind `Logger` (src/host/log.ts): lines for people, or JSON for machines, on standard error. */
import { format, transports, type transport as WinstonTransport, createLogger as winstonLogger } from "winston";
import type { Logger } from "../host/log.js";
import { type PlainError, plainFields } from "./serialise.js";

export interface LoggerOptions {
  level: "error" | "warn" | "info" | "debug";
  format: "text" | "json";
  /** Default: standard error. */
  transport?: WinstonTransport;
}

/** One line a record; fields are JSON values, an Error (by custom under `err`) is written with its code and causes. */
export function createLogger(options: LoggerOptions): Logger {
  const line = options.format === "json" ? jsonLine : textLine;
  const winston = winstonLogger({
    level: options.level,
    format: format.printf((info) => {
      const { level, message, fields } = info as unknown as Entry;
      return line(level, message, plainFields(fields ?? {}));
    }),
    transports: [options.transport ?? new transports.Console({ stderrLevels: ["error", "warn", "info", "debug"] })],
  });
  const bound = (inherited: Record<string, unknown>): Logger => {
    const at = (level: string) => (message: string, fields?: Record<string, unknown>) => {
      if (winston.isLevelEnabled(level)) winston.log(level, message, { fields: { ...inherited, ...fields } });
    };
    return {
      error: at("error"),
      warn: at("warn"),
      info: at("info"),
      debug: at("debug"),
      child: (fields) => bound({ ...inherited, ...fields }),
    };
  };
  return bound({});
}

interface Entry {
  level: string;
  message: string;
  fields?: Record<string, unknown>;
}

function jsonLine(level: string, message: string, fields: Record<string, unknown>): string {
  return JSON.stringify({ time: new Date().toISOString(), level, message, ...renamed(fields) });
}

/** A field must not hide what every record has. */
function renamed(fields: Record<string, unknown>): Record<string, unknown> {
  const taken = new Set(["time", "level", "message"]);
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [taken.has(key) ? `${key}_` : key, value]));
}

function textLine(level: string, message: string, fields: Record<string, unknown>): string {
  const { err, ...rest } = fields;
  const pairs = Object.entries(rest).filter(([, value]) => value !== undefined);
  const parts = [new Date().toISOString(), level.toUpperCase().padEnd(5), oneLine(message)];
  parts.push(...pairs.map(([key, value]) => `${key}=${shown(value)}`));
  if (err !== undefined) parts.push(`err=${isError(err) ? errorText(err) : shown(err)}`);
  return parts.join(" ");
}

const isError = (value: unknown): value is PlainError =>
  typeof value === "object" && value !== null && "message" in value && "name" in value;

function errorText(err: PlainError): string {
  const chain: string[] = [];
  for (
    let at: PlainError | string | undefined = err;
    at !== undefined;
    at = typeof at === "string" ? undefined : at.cause
  ) {
    chain.push(typeof at === "string" ? at : at.message);
  }
  // Where it was thrown matters only for what nobody foresaw; the errors that PodVM makes itself say what to do.
  const where = err.name === "PodvmError" && err.code !== "internal" ? "" : ` (${place(err.stack)})`;
  return JSON.stringify(chain.join(": caused by: ")) + where;
}

function place(stack: string | undefined): string {
  const frames = stack?.split("\n").filter((part) => part.trimStart().startsWith("at "));
  return (
    frames
      ?.slice(0, 3)
      .map((part) => oneLine(part.trim()))
      .join(" < ") || "no stack"
  );
}

function shown(value: unknown): string {
  if (typeof value === "string") return /^[\w./:@+-]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value) ?? String(value);
}

/** A record stays one line, whatever a guest or registry put into it. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => JSON.stringify(c).slice(1, -1));
}
