import { availableParallelism, totalmem } from "node:os";
import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { roomFor, sizeOf } from "../../../src/pod/sizing.js";
import type { PodConfig, Resources } from "../../../src/pod/types.js";
import { UidPool } from "../../../src/pod/uid-pool.js";

const sizing = { defaultMemoryMib: 512, defaultVcpus: 1, guestReserveMib: 64, maxVcpus: 32 };

function pod(resources?: Resources): PodConfig {
  return {
    name: "p",
    uid: "u",
    namespace: "n",
    attempt: 0,
    hostname: "",
    logDirectory: "",
    labels: {},
    annotations: {},
    runtimeHandler: "",
    portMappings: [],
    cgroupParent: "",
    sysctls: {},
    pidMode: "container",
    ...(resources && { resources }),
  };
}

test("without limits the defaults", (t) => {
  t.deepEqual(sizeOf(pod(), sizing), { memoryMib: 512, vcpus: 1 });
});

test("limits give exactly what they say, CPUs rounded up, plus the guest's reserve", (t) => {
  const limits = { memoryLimit: 100 * 2 ** 20 + 1, cpuQuota: 150_000, cpuPeriod: 100_000 };
  t.deepEqual(sizeOf(pod(limits), sizing), { memoryMib: 101 + 64, vcpus: 2 });
  t.is(sizeOf(pod({ cpuQuota: 800_000, cpuPeriod: 100_000 }), sizing).vcpus, 8);
  t.is(sizeOf(pod({ cpuQuota: -1 }), sizing).vcpus, 1);
});

test("a VM may grow to what the node has, or to what is configured, never to less than it begins with", (t) => {
  const room = roomFor({ memoryMib: 512, vcpus: 1 }, sizing);
  t.true(room.maxMemoryMib >= 512 && room.maxMemoryMib <= Math.floor(totalmem() / 2 ** 20));
  t.is(room.maxVcpus, Math.min(availableParallelism(), 32));
  t.is(roomFor({ memoryMib: 512, vcpus: 1 }, { ...sizing, maxVcpus: 1 }).maxVcpus, 1);
  t.like(roomFor({ memoryMib: 2 ** 30, vcpus: 200 }, { ...sizing, maxVcpus: 6 }), {
    maxMemoryMib: 2 ** 30,
    maxVcpus: 200,
  });
});

test("more than the node has is refused", (t) => {
  t.true(
    hasCode(
      t.throws(() => sizeOf(pod({ memoryLimit: 2 ** 50 }), sizing)),
      "resource_exhausted",
    ),
  );
});

test("user ids are given once, the one free longest first", (t) => {
  const pool = new UidPool(100, 3);
  pool.claim(101);
  t.deepEqual([pool.take(), pool.take()], [100, 102]);
  t.true(
    hasCode(
      t.throws(() => pool.take()),
      "resource_exhausted",
    ),
  );
  pool.release(102);
  pool.release(100);
  t.is(pool.take(), 100);
});
