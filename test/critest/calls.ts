/** Where the time of a run goes, call by call: what the server's own metrics say. */

export interface CallTime {
  method: string;
  count: number;
  /** Of all calls together. */
  seconds: number;
}

const series = /^podvm_rpc_duration_seconds_(sum|count)\{(.*)\} (\S+)$/;

/** @param metrics what `podvm metrics` prints */
export function callTimes(metrics: string): CallTime[] {
  const times = new Map<string, CallTime>();
  for (const line of metrics.split("\n")) {
    const [, kind, labels, value] = series.exec(line) ?? [];
    const method = /method="([^"]+)"/.exec(labels ?? "")?.[1];
    if (!method) continue;
    const time = times.get(method) ?? { method, count: 0, seconds: 0 };
    if (kind === "sum") time.seconds += Number(value);
    else time.count += Number(value);
    times.set(method, time);
  }
  return [...times.values()];
}

/** What came between two of `callTimes`, the greatest sum first. */
export function since(before: CallTime[], after: CallTime[]): CallTime[] {
  const old = new Map(before.map((time) => [time.method, time]));
  return after
    .map(({ method, count, seconds }) => {
      const was = old.get(method) ?? { count: 0, seconds: 0 };
      return { method, count: count - was.count, seconds: seconds - was.seconds };
    })
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.seconds - a.seconds);
}

/** The ten that took most. */
export function callTable(times: CallTime[]): string {
  return times
    .slice(0, 10)
    .map(({ method, count, seconds }) => {
      const mean = ((seconds / count) * 1000).toFixed(0).padStart(6);
      return `  ${seconds.toFixed(1).padStart(7)} s  ${String(count).padStart(5)} × ${mean} ms  ${method}`;
    })
    .join("\n");
}
