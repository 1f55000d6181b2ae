/**
 * Gauges and histograms in Prometheus' text format (version 0.0.4): the few that the server has do not justify a client library
 * that costs 160 ms of start-up.
 */

export type Labels = Record<string, string>;

/** Label values per metric beyond which new ones are counted under "other": a client must not be able to grow the server. */
const maxSeries = 1000;

interface Series<T> {
  labels: Labels;
  value: T;
}

abstract class Metric<T> {
  protected readonly series = new Map<string, Series<T>>();

  constructor(
    readonly name: string,
    readonly help: string,
    readonly type: "gauge" | "histogram",
  ) {}

  protected at(labels: Labels, initial: () => T): Series<T> {
    const key = labelText(labels);
    const found = this.series.get(key);
    if (found) return found;
    if (this.series.size >= maxSeries && !Object.values(labels).every((value) => value === "other")) {
      return this.at(Object.fromEntries(Object.keys(labels).map((name) => [name, "other"])), initial);
    }
    const made = { labels, value: initial() };
    this.series.set(key, made);
    return made;
  }

  protected abstract lines(series: Series<T>): string[];

  render(): string {
    const head = [`# HELP ${this.name} ${this.help}`, `# TYPE ${this.name} ${this.type}`];
    return [...head, ...[...this.series.values()].flatMap((one) => this.lines(one))].join("\n");
  }
}

export class Gauge extends Metric<number> {
  /** `read` is asked at each rendering, where the value is known elsewhere. */
  constructor(
    name: string,
    help: string,
    private readonly read?: () => number,
  ) {
    super(name, help, "gauge");
  }

  set(value: number, labels: Labels = {}): void {
    this.at(labels, () => 0).value = value;
  }

  override render(): string {
    if (this.read) this.set(this.read());
    return super.render();
  }

  protected lines({ labels, value }: Series<number>): string[] {
    return [`${this.name}${labelText(labels)} ${value}`];
  }
}

interface Distribution {
  /** One per bound, not cumulative; what is above the last bound is only in `count`. */
  buckets: number[];
  sum: number;
  count: number;
}

export class Histogram extends Metric<Distribution> {
  /** `bounds` are upper bounds, ascending. */
  constructor(
    name: string,
    help: string,
    private readonly bounds: readonly number[],
  ) {
    super(name, help, "histogram");
  }

  observe(value: number, labels: Labels = {}): void {
    const { value: seen } = this.at(labels, () => ({ buckets: this.bounds.map(() => 0), sum: 0, count: 0 }));
    const index = this.bounds.findIndex((bound) => value <= bound);
    if (index >= 0) seen.buckets[index] = (seen.buckets[index] ?? 0) + 1;
    seen.sum += value;
    seen.count += 1;
  }

  protected lines({ labels, value }: Series<Distribution>): string[] {
    let below = 0;
    const buckets = this.bounds.map((bound, i) => {
      below += value.buckets[i] ?? 0;
      return `${this.name}_bucket${labelText({ ...labels, le: String(bound) })} ${below}`;
    });
    return [
      ...buckets,
      `${this.name}_bucket${labelText({ ...labels, le: "+Inf" })} ${value.count}`,
      `${this.name}_sum${labelText(labels)} ${value.sum}`,
      `${this.name}_count${labelText(labels)} ${value.count}`,
    ];
  }
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => {
    const escaped = value.slice(0, 128).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
    return `${name}="${escaped}"`;
  });
  return pairs.length > 0 ? `{${pairs.join(",")}}` : "";
}
