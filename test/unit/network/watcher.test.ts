import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { silentLogger } from "../../../src/host/log.js";
import { ConfigWatcher } from "../../../src/network/watcher.js";
import { until } from "../../support/until.js";

const plugin = (versions: string, status = "exit 0") => `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":${versions}}';;
STATUS) ${status};;
esac
`;
const conflist = (name: string, cniVersion = "1.0.0") =>
  JSON.stringify({ cniVersion, name, plugins: [{ type: "net" }] });

interface Rig {
  confDir: string;
  binDir: string;
  watcher: ConfigWatcher;
  install(text?: string): Promise<void>;
}

/** @param rescanMs long enough that what a test sees comes from inotify, unless it says otherwise */
async function rig(t: ExecutionContext, rescanMs = 600_000): Promise<Rig> {
  const dir = await mkdtemp(join(tmpdir(), "podvm-watcher-"));
  const confDir = join(dir, "net.d");
  const binDir = join(dir, "bin");
  await mkdir(binDir);
  const chain = { binDirs: [binDir], env: process.env };
  const watcher = new ConfigWatcher({ confDir, chain, logger: silentLogger, rescanMs });
  t.teardown(async () => {
    watcher.close();
    await rm(dir, { recursive: true, force: true });
  });
  const install = async (text = plugin('["0.4.0","1.0.0","1.1.0"]')) => {
    await writeFile(join(binDir, "net.new"), text);
    await chmod(join(binDir, "net.new"), 0o755);
    await rename(join(binDir, "net.new"), join(binDir, "net"));
  };
  return { confDir, binDir, watcher, install };
}

const ready = (watcher: ConfigWatcher, name: string) =>
  until(`network ${name}`, 10_000, () => watcher.status().ready && watcher.status().configuration === name);
const notReady = (watcher: ConfigWatcher, message: RegExp) =>
  until(`not ready: ${message}`, 10_000, () => !watcher.status().ready && message.test(watcher.status().message));

test("ready comes and goes with the files", async (t) => {
  const { confDir, watcher, install } = await rig(t);
  await install();
  await mkdir(confDir);
  await watcher.open();
  const { ready: isReady, reason, message } = watcher.status();
  t.false(isReady);
  t.is(reason, "NetworkPluginNotReady");
  t.is(message, `no CNI configuration in ${confDir}: wanted a file named *.conflist, *.conf or *.json`);

  await writeFile(join(confDir, "20-b.conflist"), conflist("b"));
  await ready(watcher, "b");
  await writeFile(join(confDir, "10-a.conflist"), conflist("a"));
  await ready(watcher, "a");
  await writeFile(join(confDir, "10-a.conflist"), "{");
  await ready(watcher, "b");
  await rm(join(confDir, "20-b.conflist"));
  await notReady(watcher, /no valid CNI configuration in .*10-a\.conflist: not JSON/);
  await t.throwsAsync(watcher.current(), {
    code: "unavailable",
    message: /^no pod network: no valid CNI configuration/,
  });
  await writeFile(join(confDir, "10-a.conf"), JSON.stringify({ cniVersion: "0.4.0", name: "single", type: "net" }));
  await ready(watcher, "single");
  t.is((await watcher.current()).plugins.length, 1);
});

test("the folder itself may come later, go, and come again", async (t) => {
  const { confDir, watcher, install } = await rig(t, 200);
  await install();
  await watcher.open();
  t.regex(watcher.status().message, /there is no folder/);
  for (let round = 0; round < 2; round++) {
    await mkdir(confDir);
    await writeFile(join(confDir, "a.conflist"), conflist("a"));
    await ready(watcher, "a");
    await rm(confDir, { recursive: true });
    await notReady(watcher, /there is no folder/);
  }
});

test("a configuration counts from when its plugins are there and speak its version", async (t) => {
  const { confDir, binDir, watcher, install } = await rig(t, 200);
  await mkdir(confDir);
  await writeFile(join(confDir, "a.conflist"), conflist("a"));
  await watcher.open();
  t.is(watcher.status().message, `CNI plugin net: no such program in ${binDir}. Install it there`);
  await install(plugin('["0.3.1","0.4.0"]'));
  await notReady(watcher, /network a is of version 1\.0\.0; plugin .*\/net speaks 0\.3\.1, 0\.4\.0/);
  await install();
  await ready(watcher, "a");
});

test("a request does not wait for the next look", async (t) => {
  const { confDir, watcher, install } = await rig(t);
  await watcher.open();
  await install();
  await mkdir(confDir);
  await writeFile(join(confDir, "a.conflist"), conflist("a"));
  t.is((await watcher.current()).name, "a");
  t.true(watcher.status().ready);
});

test("from version 1.1.0 on the plugins say whether they are ready", async (t) => {
  const { confDir, watcher, install } = await rig(t, 200);
  await install(plugin('["1.0.0","1.1.0"]', `echo '{"code":50,"msg":"waiting for the daemon"}'; exit 1`));
  await mkdir(confDir);
  await writeFile(join(confDir, "a.conflist"), conflist("a", "1.1.0"));
  await watcher.open();
  t.regex(watcher.status().message, /net \(STATUS\): waiting for the daemon \(CNI error 50\)/);
  t.is(watcher.status().configuration, "a");
  await install();
  await ready(watcher, "a");
  await writeFile(join(confDir, "a.conflist"), conflist("old", "1.0.0"));
  await ready(watcher, "old");
});
