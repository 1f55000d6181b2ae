/** What Ginkgo's JSON report says of each spec. */
import { readFileSync } from "node:fs";

export type SpecState = "passed" | "failed" | "skipped";

export interface Spec {
  /** "Security Context", "Image Manager" …: what comes after "[k8s.io]". */
  group: string;
  /** The rest of the title. */
  name: string;
  state: SpecState;
  /** Why it failed, or what critest said when it skipped; "" where a filter left it out. */
  message: string;
  /** file.go:line of the failure. */
  where: string;
  seconds: number;
  /** Milliseconds since the epoch. */
  began: number;
  ended: number;
}

interface GinkgoSuite {
  RunTime: number;
  SpecialSuiteFailureReasons: string[] | null;
  SpecReports: GinkgoSpec[];
}

interface GinkgoSpec {
  ContainerHierarchyTexts: string[] | null;
  LeafNodeText: string;
  LeafNodeType: string;
  State: string;
  StartTime: string;
  EndTime: string;
  RunTime: number;
  Failure?: { Message?: string; ForwardedPanic?: string; Location?: { FileName?: string; LineNumber?: number } };
}

export interface Report {
  specs: Spec[];
  /** Failures outside of specs: BeforeSuite, the suite's time limit. */
  suiteFailures: string[];
}

/** Durations of Go are nanoseconds. Specs that a filter left out have State "skipped" and no message. */
export function readReport(file: string): Report {
  const suites = JSON.parse(readFileSync(file, "utf8")) as GinkgoSuite[];
  const all = suites.flatMap((suite) => suite.SpecReports);
  const nodes = all.filter((one) => one.LeafNodeType !== "It" && stateOf(one) === "failed");
  return {
    specs: all.filter((one) => one.LeafNodeType === "It").map(toSpec),
    suiteFailures: [
      ...suites.flatMap((suite) => suite.SpecialSuiteFailureReasons ?? []).filter((why) => !/^Detected/.test(why)),
      ...nodes.map((one) => `${one.LeafNodeType}: ${one.Failure?.Message ?? one.State}`),
    ],
  };
}

function toSpec(spec: GinkgoSpec): Spec {
  const texts = (spec.ContainerHierarchyTexts ?? []).map(plain);
  const { Failure: failure } = spec;
  const file = failure?.Location?.FileName?.split("/").at(-1);
  return {
    group: texts[0] ?? "",
    name: [...texts.slice(1), plain(spec.LeafNodeText)].join(" "),
    state: stateOf(spec),
    message: [failure?.Message, failure?.ForwardedPanic].filter(Boolean).join("\n"),
    where: file ? `${file}:${failure?.Location?.LineNumber}` : "",
    seconds: spec.RunTime / 1e9,
    began: Date.parse(spec.StartTime),
    ended: Date.parse(spec.EndTime),
  };
}

/** Without the marks that critest's titles carry. */
function plain(title: string): string {
  return title.replace(/^\[k8s\.io\] /, "").replaceAll(/ *\[(Conformance|Serial)\]/g, "");
}

function stateOf(spec: GinkgoSpec): SpecState {
  if (spec.State === "passed") return "passed";
  return spec.State === "skipped" || spec.State === "pending" ? "skipped" : "failed";
}
