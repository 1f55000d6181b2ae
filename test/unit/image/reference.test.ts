import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { familiarReference, formatReference, parseReference } from "../../../src/image/reference.js";

const sha256 = `sha256:${"ab".repeat(32)}`;
const sha512 = `sha512:${"cd".repeat(64)}`;

const good: [text: string, full: string, familiar: string][] = [
  ["busybox", "docker.io/library/busybox:latest", "busybox:latest"],
  ["busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"],
  ["user/app", "docker.io/user/app:latest", "user/app:latest"],
  ["docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"],
  ["index.docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"],
  ["docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"],
  ["localhost/app", "localhost/app:latest", "localhost/app:latest"],
  ["localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"],
  ["127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c:latest"],
  ["[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"],
  ["REGISTRY/app", "REGISTRY/app:latest", "REGISTRY/app:latest"],
  ["registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"],
  ["quay.io/a__b/c-d--e.f_g:T_a.g-1", "quay.io/a__b/c-d--e.f_g:T_a.g-1", "quay.io/a__b/c-d--e.f_g:T_a.g-1"],
  [`busybox@${sha256}`, `docker.io/library/busybox@${sha256}`, `busybox@${sha256}`],
  [`busybox:1@${sha256}`, `docker.io/library/busybox:1@${sha256}`, `busybox:1@${sha256}`],
  [`r.io:1/x@${sha512}`, `r.io:1/x@${sha512}`, `r.io:1/x@${sha512}`],
];

for (const [text, full, familiar] of good) {
  test(`parses ${text.slice(0, 60)}`, (t) => {
    const reference = parseReference(text);
    t.is(formatReference(reference), full);
    t.is(familiarReference(reference), familiar);
    t.deepEqual(parseReference(full), reference);
    t.deepEqual(parseReference(familiar), reference);
  });
}

const bad: [text: string, why: RegExp][] = [
  ["", /empty/],
  ["https://docker.io/busybox", /no scheme/],
  ["ab".repeat(32), /image id/],
  ["Busybox", /lower case/],
  ["docker.io/User/app", /lower case/],
  ["a//b", /empty part/],
  ["/a", /empty part/],
  ["a/", /empty part/],
  ["docker.io/", /no repository/],
  ["busybox:", /tag ""/],
  ["busybox:-x", /tag "-x"/],
  [`busybox:${"t".repeat(129)}`, /128 letters/],
  ["busybox:a b", /tag/],
  ["bu sy", /no repository name part/],
  ["a..b", /no repository name part/],
  ["a___b", /no repository name part/],
  ["-a", /no repository name part/],
  ["../etc", /no host name/],
  ["a/../b", /no repository name part/],
  ["localhost:0/a", /out of range/],
  ["localhost:70000/a", /out of range/],
  ["bad_host.io/a", /no host name/],
  ["host.io:port/a", /no host name/],
  ["busybox@sha256:abc", /64 lower-case/],
  [`busybox@sha256:${"AB".repeat(32)}`, /lower-case/],
  [`busybox@md5:${"ab".repeat(16)}`, /neither sha256/],
  ["busybox@", /neither sha256/],
  [`busybox@__proto__:${"ab".repeat(16)}`, /neither sha256/],
  [`r.io/${"a".repeat(255)}`, /longer than 255/],
  ["a".repeat(2000), /longer than/],
  ["new\nline", /no repository name part/],
  ["büsybox", /no repository name part/],
];

for (const [text, why] of bad) {
  test(`refuses ${JSON.stringify(text.slice(0, 40))}`, (t) => {
    const error = t.throws(() => parseReference(text));
    t.true(hasCode(error, "invalid_argument"));
    t.regex(error.message, why);
    t.true(error.message.length < 600);
  });
}
