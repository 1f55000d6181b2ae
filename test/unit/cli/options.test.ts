import test from "ava";
import { InvalidArgumentError } from "commander";
import { cpuCount, envVariable, integerBetween, memoryBytes, podName, portMapping } from "../../../src/cli/options.js";
import { resourcesOf } from "../../../src/cli/run/requests.js";

test("memory has a unit", (t) => {
  t.is(memoryBytes("256m"), 268435456n);
  t.is(memoryBytes("1.5g"), 1610612736n);
  t.is(memoryBytes("512Mi"), 536870912n);
  for (const bad of ["5", "0m", "1k", "-1m", "m", "1tt", "9999999g9", ""])
    t.throws(() => memoryBytes(bad), { instanceOf: InvalidArgumentError }, bad);
});

test("CPUs are decimal", (t) => {
  t.is(cpuCount("0.5"), 0.5);
  t.is(cpuCount("2"), 2);
  for (const bad of ["0", "-1", "1e3", "0.001", "x", ""])
    t.throws(() => cpuCount(bad), { instanceOf: InvalidArgumentError }, bad);
});

test("ports", (t) => {
  t.deepEqual(portMapping("8080:80"), [{ hostIp: "", hostPort: 8080, containerPort: 80, protocol: "tcp" }]);
  t.deepEqual(portMapping("127.0.0.1:53:53/udp", [])[0], {
    hostIp: "127.0.0.1",
    hostPort: 53,
    containerPort: 53,
    protocol: "udp",
  });
  t.is(portMapping("[::1]:1:2")[0]?.hostIp, "::1");
  t.is(portMapping("3:4", portMapping("1:2")).length, 2);
  for (const bad of ["80", "0:80", "80:65536", "1.2.3:1:1", "300.1.1.1:1:1", "1:2/icmp", "a:b"]) {
    t.throws(() => portMapping(bad), { instanceOf: InvalidArgumentError }, bad);
  }
});

test("environment: a value, one with =, one of this shell", (t) => {
  t.deepEqual(envVariable("A=b=c"), [{ key: "A", value: "b=c" }]);
  t.deepEqual(envVariable("A="), [{ key: "A", value: "" }]);
  t.deepEqual(envVariable("PATH"), [{ key: "PATH", value: process.env.PATH ?? "" }]);
  for (const bad of ["=x", "1A=x", "PODVM_SURELY_NOT_SET"])
    t.throws(() => envVariable(bad), { instanceOf: InvalidArgumentError }, bad);
});

test("integers and names", (t) => {
  t.is(integerBetween(1, 10)("7"), 7);
  for (const bad of ["0", "11", "7.5", "x", ""])
    t.throws(() => integerBetween(1, 10)(bad), { instanceOf: InvalidArgumentError }, bad);
  t.is(podName("my-pod"), "my-pod");
  for (const bad of ["My", "-a", "a-", "a_b", "a".repeat(64), ""])
    t.throws(() => podName(bad), { instanceOf: InvalidArgumentError }, bad);
});

test("limits become CRI resources, none stay none", (t) => {
  t.is(resourcesOf({}), undefined);
  t.like(resourcesOf({ memory: 268435456n, cpus: 0.5 }), {
    memoryLimitInBytes: 268435456n,
    cpuPeriod: 100000n,
    cpuQuota: 50000n,
    cpuShares: 512n,
  });
  t.like(resourcesOf({ cpus: 2 }), { cpuQuota: 200000n, memoryLimitInBytes: 0n });
});
