/** The metrics of one server. `podvm metrics` prints them. */
import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";
import { Gauge, Histogram } from "./metrics.js";

/** Seconds: from the cheap lists to a slow pull. */
const rpcBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

/** Between samples of the event loop; each is a wake-up, so not often. It is part of what is measured. */
const sampleMs = 100;

export interface Counts {
  /** By backend and state. */
  pods: { backend: string; state: "ready" | "notready"; count: number }[];
  containersRunning: number;
  images: number;
}

export class Metrics {
  private readonly rpcSeconds = new Histogram(
    "podvm_rpc_duration_seconds",
    "Time from request to answer, by gRPC method and status.",
    rpcBounds,
  );
  private readonly started = Date.now() / 1000;
  private readonly loop: IntervalHistogram = monitorEventLoopDelay({ resolution: sampleMs });
  private readonly pods = new Gauge(
    "podvm_pods",
    "Pod sandboxes by backend (host: without a virtual machine) and state.",
  );
  private readonly containers = new Gauge("podvm_containers_running", "Running containers.");
  private readonly images = new Gauge("podvm_images", "Images in the store.");
  private readonly rss = new Gauge("podvm_resident_memory_bytes", "Resident set size of the server process.", () =>
    process.memoryUsage.rss(),
  );
  private readonly start = new Gauge(
    "podvm_start_time_seconds",
    "Start of the server, since the epoch.",
    () => this.started,
  );
  private readonly loopDelay = new Gauge(
    "podvm_event_loop_delay_p99_seconds",
    "99th percentile of the event loop's delay since the last rendering.",
    () => this.takeLoopDelay(),
  );

  constructor(private readonly counts?: () => Counts) {
    this.loop.enable();
  }

  /** For the RPC wrapper's `observe`. */
  readonly observeRpc = (method: string, code: string, seconds: number): void => {
    this.rpcSeconds.observe(seconds, { method, code });
  };

  /** Prometheus' text format. */
  render(): string {
    const counts = this.counts?.();
    if (counts) {
      for (const { count, ...labels } of counts.pods) this.pods.set(count, labels);
      this.containers.set(counts.containersRunning);
      this.images.set(counts.images);
    }
    const counted = counts ? [this.pods, this.containers, this.images] : [];
    const all = [this.rpcSeconds, ...counted, this.rss, this.start, this.loopDelay];
    return `${all.map((metric) => metric.render()).join("\n")}\n`;
  }

  close(): void {
    this.loop.disable();
  }

  private takeLoopDelay(): number {
    const seconds = this.loop.count > 0 ? this.loop.percentile(99) / 1e9 - sampleMs / 1e3 : 0;
    this.loop.reset();
    return Math.max(0, seconds);
  }
}
