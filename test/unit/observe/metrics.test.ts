import test from "ava";
import { Gauge, Histogram } from "../../../src/observe/metrics.js";
import { Metrics } from "../../../src/observe/server-metrics.js";

test("a histogram's buckets are cumulative", (t) => {
  const histogram = new Histogram("h", "Help.", [1, 5]);
  for (const value of [0.5, 1, 3, 10]) histogram.observe(value, { m: "x" });
  t.deepEqual(histogram.render().split("\n"), [
    "# HELP h Help.",
    "# TYPE h histogram",
    'h_bucket{m="x",le="1"} 2',
    'h_bucket{m="x",le="5"} 3',
    'h_bucket{m="x",le="+Inf"} 4',
    'h_sum{m="x"} 14.5',
    'h_count{m="x"} 4',
  ]);
});

test("labels are escaped, and a gauge may be read when asked", (t) => {
  const gauge = new Gauge("c", "Help.");
  gauge.set(2, { reason: 'a"b\\c\nd' });
  t.true(gauge.render().endsWith('c{reason="a\\"b\\\\c\\nd"} 2'));
  t.true(new Gauge("g", "Help.", () => 7).render().endsWith("\ng 7"));
});

test("label values that grow without end are counted under other", (t) => {
  const histogram = new Histogram("h", "Help.", []);
  for (let i = 0; i < 5000; i++) histogram.observe(1, { reason: `r${i}` });
  const lines = histogram.render().split("\n");
  t.true(lines.length < 3300);
  t.true(lines.includes('h_count{reason="other"} 4000'));
});

test("the server's metrics hold calls, pods and the process", (t) => {
  const metrics = new Metrics(() => ({
    pods: [
      { backend: "qemu", state: "ready", count: 2 },
      { backend: "host", state: "notready", count: 1 },
    ],
    containersRunning: 3,
    images: 4,
  }));
  t.teardown(() => metrics.close());
  metrics.observeRpc("Version", "OK", 0.002);
  const text = metrics.render();
  t.true(text.includes('podvm_rpc_duration_seconds_count{method="Version",code="OK"} 1'));
  t.regex(text, /^podvm_pods\{(backend="qemu",state="ready"|state="ready",backend="qemu")\} 2$/m);
  t.regex(text, /^podvm_pods\{(backend="host",state="notready"|state="notready",backend="host")\} 1$/m);
  t.true(text.includes("podvm_containers_running 3"));
  t.regex(text, /^podvm_resident_memory_bytes [1-9]\d+$/m);
});
