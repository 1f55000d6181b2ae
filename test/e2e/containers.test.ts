/** Many containers, their exits, lists with filters, exec time-out, terminal, users. */
import { readFileSync } from "node:fs";
import { busybox, containerConfig, random } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite({ images: "all" });

test.before(async () => {
  await podvm().crictl.run("pull", busybox);
});

test("20 containers in one pod, all running, each with its own output", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  const ids: string[] = [];
  for (let n = 0; n < 20; n++) {
    ids.push(
      await crictl.start(
        pod,
        containerConfig({ name: `n${n}`, command: ["sh", "-c", `echo number ${n}; exec sleep 3600`] }),
        config,
      ),
    );
  }
  const running = await crictl.containers("--pod", pod, "--state", "running");
  t.deepEqual(running.map(({ id }) => id).sort(), [...ids].sort());
  for (const [n, id] of ids.entries()) {
    await until(`container ${n} has written`, 20_000, async () => (await crictl.run("logs", id)) === `number ${n}`);
  }
  t.is(await crictl.exec(ids[19] ?? "", "echo", "here"), "here");
  await podvm().removePod(pod);
  t.deepEqual(await crictl.containers("--pod", pod), []);
});

test("lists filter by id, name, state, label and pod", async (t) => {
  const { crictl } = podvm();
  const mark = random();
  const one = await podvm().podWith(
    { name: "left", labels: { mark, side: "left" } },
    { name: `one-${mark}`, labels: { mark, n: "1" } },
  );
  const two = await podvm().podWith(
    { name: "right", labels: { mark, side: "right" } },
    { name: `two-${mark}`, labels: { mark, n: "2" } },
  );
  await crictl.run("stop", "--timeout", "0", two.id);

  const ids = async (...filters: string[]) => (await crictl.containers(...filters)).map(({ id }) => id).sort();
  t.deepEqual(await ids("--label", `mark=${mark}`), [one.id, two.id].sort());
  t.deepEqual(await ids("--label", `mark=${mark}`, "--label", "side=right"), [two.id]);
  t.deepEqual(await ids("--label", `mark=${mark}`, "--state", "exited"), [two.id]);
  t.deepEqual(await ids("--label", `mark=${mark}`, "--state", "running"), [one.id]);
  t.deepEqual(await ids("--label", "mark=nothing"), []);
  t.deepEqual(await ids("--id", one.id.slice(0, 12)), [one.id]);
  t.deepEqual(await ids("--pod", two.podId), [two.id]);
  t.deepEqual(await ids("--pod", two.podId.slice(0, 12)), [two.id]);
  t.deepEqual(await ids("--name", "left", "--label", `mark=${mark}`), [one.id]);

  const pods = async (...filters: string[]) => (await crictl.pods(...filters)).map(({ id }) => id).sort();
  t.deepEqual(await pods("--label", `mark=${mark}`), [one.podId, two.podId].sort());
  t.deepEqual(await pods("--label", `mark=${mark}`, "--label", "n=2"), [two.podId]);
  t.deepEqual(await pods("--id", one.podId.slice(0, 13)), [one.podId]);
  await crictl.run("stopp", two.podId);
  t.deepEqual(await pods("--label", `mark=${mark}`, "--state", "notready"), [two.podId]);
  t.deepEqual(await pods("--label", `mark=${mark}`, "--state", "ready"), [one.podId]);
  t.deepEqual(await pods("--name", `two-${mark}`), [two.podId]);
  await podvm().removeAllPods();
});

test("an exit is reported with its code and its signal, without being asked for", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  const codes: [string[], number, RegExp][] = [
    [["true"], 0, /^Completed$/],
    [["sh", "-c", "exit 42"], 42, /^Error$/],
    [["sh", "-c", "kill -9 $$"], 137, /^Error$/],
  ];
  for (const [command, code, reason] of codes) {
    const id = await crictl.start(pod, containerConfig({ command }), config);
    const status = await until(`${command.join(" ")} has exited`, 20_000, async () => {
      const now = await crictl.inspect(id);
      return now.state === "CONTAINER_EXITED" && now;
    });
    t.is(status.exitCode, code);
    t.regex(status.reason, reason);
    t.true(new Date(status.finishedAt) >= new Date(status.startedAt));
  }
  await podvm().removePod(pod);
});

test("exec's time-out kills the command and says DeadlineExceeded", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith();
  const said = await crictl.fails("exec", "--sync", "--timeout", "1", id, "sh", "-c", "sleep 4321 & sleep 4321");
  t.regex(said, /DeadlineExceeded|timed out/i);
  const left = await crictl.exec(id, "sh", "-c", "ps | grep '[s]leep 4321' || echo none");
  t.is(left, "none");
  t.is(await crictl.exec(id, "echo", "alive"), "alive");
  await podvm().removePod(podId);
});

test("a command that is not there is an error that names it; the container's other commands go on", async (t) => {
  const { crictl } = podvm();
  const { config, podId, id } = await podvm().podWith();
  t.regex(await crictl.fails("exec", "--sync", id, "/no/such/program"), /no\/such\/program|not found|no such file/i);
  const created = await crictl.attempt([
    "create",
    podId,
    await crictl.file(containerConfig({ command: ["/no/such/program"] })),
    await crictl.file(config),
  ]);
  // as with other runtimes, either create or start may be what finds it
  const said = created.code === 0 ? await crictl.fails("start", created.stdout.trim()) : created.stderr;
  t.regex(said, /no\/such\/program|not found|no such file/i);
  t.is(await crictl.exec(id, "echo", "alive"), "alive");
  await podvm().removePod(podId);
});

test("a terminal makes one stream, with the terminal's line ends", async (t) => {
  const { crictl } = podvm();
  const { podId, id, config } = await podvm().podWith({
    name: "tty",
    tty: true,
    command: ["sh", "-c", "tty; echo err >&2; exec sleep 3600"],
  });
  const text = await until("both lines are in the log", 20_000, () => {
    const log = readFileSync(`${config.log_directory}/tty-0.log`, "utf8");
    return log.includes("err") && log;
  });
  t.regex(text, /^\S+ stdout F \/dev\/(pts\/\d+|console)\r?\n\S+ stdout F err\r?\n$/);
  await crictl.run("stop", "--timeout", "0", id);
  await podvm().removePod(podId);
});

test("user, working folder, environment and arguments come from image and configuration", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", "registry.k8s.io/podvm-test/config:1");
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  const say = async (options: Parameters<typeof containerConfig>[0]) => {
    const id = await crictl.start(
      pod,
      containerConfig({ image: "registry.k8s.io/podvm-test/config:1", ...options }),
      config,
    );
    await until("it has exited", 20_000, async () => (await crictl.inspect(id)).state === "CONTAINER_EXITED");
    return (await crictl.run("logs", id)).split("\n");
  };
  // entrypoint: sh -c 'id -u; id -g; pwd; echo $FROM_IMAGE; echo "$@"' entry; cmd: from image
  t.deepEqual(await say({ command: [] }), ["1234", "5678", "/work", "image", "from image"]);
  t.deepEqual(await say({ command: [], args: ["from", "pod"] }), ["1234", "5678", "/work", "image", "from pod"]);
  t.deepEqual(
    await say({
      command: ["sh", "-c", "pwd; echo $FROM_IMAGE; id -u"],
      envs: { FROM_IMAGE: "pod" },
      workingDir: "/tmp",
    }),
    ["/tmp", "pod", "1234"],
  );
  t.deepEqual(
    await say({
      command: ["sh", "-c", "id -u; id -G"],
      linux: {
        security_context: { run_as_user: { value: 7 }, run_as_group: { value: 8 }, supplemental_groups: [9, 10] },
      },
    }),
    ["7", "8 9 10"],
  );
  await podvm().removePod(pod);
});

test("a container over its memory limit is killed: 137, OOMKilled", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  const limit = 15 << 20;
  const id = await crictl.start(
    pod,
    containerConfig({
      command: ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=30M count=10"],
      linux: { resources: { memory_limit_in_bytes: limit, memory_swap_limit_in_bytes: limit } },
    }),
    config,
  );
  const status = await until("it was killed", 60_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  t.is(status.exitCode, 137);
  t.is(status.reason, "OOMKilled");
  await podvm().removePod(pod);
});

test("asking twice: the same pod or container name is refused, stop and remove are not", async (t) => {
  const { crictl } = podvm();
  const config = podvm().pod();
  const pod = await crictl.runp(config);
  t.regex(await crictl.fails("runp", await crictl.file(config)), /already ?exists|is reserved|reserved for/i);
  t.deepEqual(
    (await crictl.pods("--name", config.metadata.name)).map(({ id }) => id),
    [pod],
  );
  const container = containerConfig({ name: "twice" });
  const id = await crictl.start(pod, container, config);
  t.regex(
    await crictl.fails("create", pod, await crictl.file(container), await crictl.file(config)),
    /already ?exists|is reserved|reserved for/i,
  );
  const next = await crictl.start(pod, containerConfig({ name: "twice", attempt: 1 }), config);
  t.not(next, id);
  t.regex(await crictl.fails("start", id), /FailedPrecondition|running|state/i);
  for (const gone of ["0".repeat(64)]) {
    await crictl.run("stopp", gone);
    await crictl.run("rmp", gone).catch((err: Error) => t.regex(err.message, /NotFound|not found/i)); // crictl itself asks for its status first
  }
  await podvm().removePod(pod);
});

test("log rotation: after a rename, reopen writes to a new file and nothing is lost", async (t) => {
  const { crictl } = podvm();
  const { podId, id, config } = await podvm().podWith({
    name: "rot",
    command: ["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"],
  });
  const file = `${config.log_directory}/rot-0.log`;
  const { renameSync } = await import("node:fs");
  await until("the first lines are there", 20_000, () => readFileSync(file, "utf8").split("\n").length > 10);
  renameSync(file, `${file}.1`);
  await crictl.run("logs", "--reopen", id);
  const lines = await until("the new file fills", 20_000, () => {
    const text = readFileSync(file, "utf8");
    return text.split("\n").length > 10 && text;
  });
  const numbers = (readFileSync(`${file}.1`, "utf8") + lines)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => Number(line.split(" ")[3]));
  t.deepEqual(
    numbers,
    Array.from(numbers, (_, i) => i),
  );
  await podvm().removePod(podId);
});
