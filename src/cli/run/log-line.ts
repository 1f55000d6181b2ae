/** Lines of a container's log as CRI writes them: `2026-01-02T03:04:05.000000000Z stdout F text`, P for a part of a line. */

export interface LogRecord {
  stream: "stdout" | "stderr";
  /** True: the next record of the same stream goes on with this line. */
  partial: boolean;
  text: Buffer;
}

/** One line without its newline; undefined where it is no log line. Bytes of the text are kept as they are. */
export function parseLogLine(line: Buffer): LogRecord | undefined {
  const afterTime = line.indexOf(0x20);
  const afterStream = line.indexOf(0x20, afterTime + 1);
  if (afterTime <= 0 || afterStream < 0) return undefined;
  const stream = line.toString("latin1", afterTime + 1, afterStream);
  if (stream !== "stdout" && stream !== "stderr") return undefined;
  const end = line.indexOf(0x20, afterStream + 1);
  const tags = line.toString("latin1", afterStream + 1, end < 0 ? line.length : end).split(":");
  if (tags[0] !== "P" && tags[0] !== "F") return undefined;
  return { stream, partial: tags[0] === "P", text: end < 0 ? Buffer.alloc(0) : line.subarray(end + 1) };
}

/** Longer than any line that a CRI server writes: what is longer is no CRI log. */
const maxLine = 1 << 20;

/** Cuts a byte stream into log records; keeps what has no newline yet for the next call. */
export class LogSplitter {
  #rest: Buffer[] = [];
  #restBytes = 0;
  /** Lines that were no log lines. */
  malformed = 0;

  push(chunk: Buffer): LogRecord[] {
    const records: LogRecord[] = [];
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      const line = Buffer.concat([...this.#rest, chunk.subarray(start, end)]);
      this.#keep([]);
      start = end + 1;
      const record = parseLogLine(line);
      if (record) records.push(record);
      else this.malformed += 1;
    }
    if (start < chunk.length) this.#keep([...this.#rest, chunk.subarray(start)]);
    if (this.#restBytes > maxLine) {
      this.malformed += 1;
      this.#keep([]);
    }
    return records;
  }

  #keep(parts: Buffer[]): void {
    this.#rest = parts;
    this.#restBytes = parts.reduce((sum, part) => sum + part.length, 0);
  }
}
