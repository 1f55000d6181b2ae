/** A metric is declared once, with how it is read: descriptors and values cannot differ. */
import { type Metric, type MetricDescriptor, MetricType } from "../../gen/runtime/v1/api.js";

/** What cAdvisor's metrics carry behind kubelet, in this order; a metric's own labels come after them. */
export const BASE_LABELS = ["container", "id", "image", "name", "namespace", "pod"] as const;

export interface Sample {
  value: bigint;
  /** Values of the metric's own labels, in their order. */
  labels?: readonly string[];
}

export interface Definition<Subject> {
  name: string;
  help: string;
  type: "counter" | "gauge";
  /** Names of its own labels. */
  labels?: readonly string[];
  /** None where the subject has no such thing. */
  read(subject: Subject): readonly Sample[];
}

export function descriptorOf({ name, help, labels = [] }: Omit<Definition<never>, "read">): MetricDescriptor {
  return { name, help, labelKeys: [...BASE_LABELS, ...labels] };
}

/** `timestamp`: CRI has 0 for what was read live, else when it was. */
export function metricsOf<Subject>(
  definitions: readonly Omit<Definition<Subject>, "help">[],
  subject: Subject,
  base: readonly string[],
  timestamp: bigint,
): Metric[] {
  return definitions.flatMap((definition) =>
    definition.read(subject).map(({ value, labels = [] }) => ({
      name: definition.name,
      timestamp,
      metricType: definition.type === "counter" ? MetricType.COUNTER : MetricType.GAUGE,
      labelValues: [...base, ...labels],
      value: { value },
    })),
  );
}

/** One sample without labels of its own. */
export const one = (value: bigint): Sample[] => [{ value }];

/** CRI's values are whole numbers, and kubelet passes them on as they are: seconds are cut to whole ones. */
export const seconds = (ns: bigint): bigint => ns / 1_000_000_000n;
