import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { callTimes, since } from "../../critest/calls.js";
import { readReport, type Spec } from "../../critest/report.js";
import { allowedSkips, skipReason } from "../../critest/skips.js";

const spec = (more: Partial<Spec>): Spec => ({
  group: "Networking",
  name: "runtime should support DNS config",
  state: "passed",
  message: "",
  where: "",
  seconds: 1,
  began: 0,
  ended: 1000,
  ...more,
});

test("Ginkgo's report: specs by group, and what failed outside of them", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-report-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "report.json");
  const times = { StartTime: "2026-01-01T00:00:00Z", EndTime: "2026-01-01T00:00:02Z", RunTime: 2_000_000_000 };
  const specs = [
    {
      ContainerHierarchyTexts: ["[k8s.io] Networking", "runtime"],
      LeafNodeText: "should support DNS config [Conformance]",
      LeafNodeType: "It",
      State: "timedout",
      Failure: { Message: "too late", Location: { FileName: "/a/networking.go", LineNumber: 58 } },
      ...times,
    },
    {
      ContainerHierarchyTexts: null,
      LeafNodeText: "",
      LeafNodeType: "BeforeSuite",
      State: "panicked",
      Failure: { Message: "no" },
      ...times,
    },
  ];
  await writeFile(file, JSON.stringify([{ RunTime: 1, SpecialSuiteFailureReasons: null, SpecReports: specs }]));
  const report = readReport(file);
  const began = Date.parse(times.StartTime);
  t.deepEqual(report.specs, [
    spec({
      name: "runtime should support DNS config",
      state: "failed",
      message: "too late",
      where: "networking.go:58",
      seconds: 2,
      began,
      ended: began + 2000,
    }),
  ]);
  t.deepEqual(report.suiteFailures, ["BeforeSuite: no"]);
});

test("only AppArmor and benchmarks may be skipped", (t) => {
  const allowed = allowedSkips();
  t.regex(skipReason(spec({ group: "AppArmor" }), allowed) ?? "", /no AppArmor/);
  t.regex(skipReason(spec({ name: "benchmark about listing Image" }), allowed) ?? "", /Measurements/);
  t.is(skipReason(spec({}), allowed), undefined);
});

test("time in calls between two looks at the metrics", (t) => {
  const metrics = (count: number, sum: number) =>
    callTimes(`podvm_rpc_duration_seconds_sum{code="OK",method="RunPodSandbox"} ${sum}
podvm_rpc_duration_seconds_count{code="OK",method="RunPodSandbox"} ${count}
podvm_rpc_duration_seconds_sum{code="NOT_FOUND",method="RunPodSandbox"} 1
podvm_rpc_duration_seconds_count{code="NOT_FOUND",method="RunPodSandbox"} 1
podvm_pods{state="ready"} 3
`);
  t.deepEqual(since(metrics(1, 2), metrics(4, 10)), [{ method: "RunPodSandbox", count: 3, seconds: 8 }]);
  t.deepEqual(since(metrics(4, 10), metrics(4, 10)), []);
});
