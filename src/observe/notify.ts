/**
 * sd_notify(3) through systemd's own `systemd-notify`: the protocol is a datagram on a unix socket, which Node cannot send. The unit needs
 * NotifyAccess=all, since the sender is then not the main process. systemd-notify waits until systemd has read the message
 * (BARRIER=1), so its exit does not race with the look-up of its cgroup. Without NOTIFY_SOCKET (not started by systemd) all of it does nothing.
 */
import { messageOf } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { run } from "../host/run.js";

export interface Notifier {
  /** Tells systemd that the server serves, and starts answering its watchdog where the unit has WatchdogSec. */
  ready(status: string): Promise<void>;
  /** One line for `systemctl status`. */
  status(text: string): Promise<void>;
  /** Ends the watchdog's answers and tells systemd that the server stops. */
  stopping(): Promise<void>;
}

const silent: Notifier = { ready: async () => {}, status: async () => {}, stopping: async () => {} };

export function createNotifier(logger: Logger, env: NodeJS.ProcessEnv = process.env): Notifier {
  if (!env.NOTIFY_SOCKET) return silent;
  const send = async (...assignments: string[]) => {
    try {
      const argv: [string, ...string[]] = ["systemd-notify", `--pid=${process.pid}`, ...assignments];
      await run(argv, { env: { PATH: env.PATH, NOTIFY_SOCKET: env.NOTIFY_SOCKET }, deadlineMs: 5000 });
    } catch (err) {
      // Not fatal: the server serves all the same, and systemd says by itself what it misses.
      logger.warn("cannot notify systemd", { tried: assignments.join(" "), error: messageOf(err) });
    }
  };
  const everyMs = watchdogMs(env);
  let watchdog: NodeJS.Timeout | undefined;
  return {
    async ready(status) {
      await send("READY=1", `STATUS=${oneLine(status)}`);
      // From the event loop, so that a server whose loop is stuck stops answering.
      if (everyMs !== undefined) watchdog ??= setInterval(() => void send("WATCHDOG=1"), everyMs).unref();
    },
    status: (text) => send(`STATUS=${oneLine(text)}`),
    async stopping() {
      clearInterval(watchdog);
      watchdog = undefined;
      await send("STOPPING=1");
    },
  };
}

/** Half of what systemd allows, as sd_watchdog_enabled(3) advises; undefined without a watchdog for this process. */
export function watchdogMs(env: NodeJS.ProcessEnv, pid = process.pid): number | undefined {
  const usec = Number(env.WATCHDOG_USEC);
  if (!Number.isSafeInteger(usec) || usec <= 0) return undefined;
  if (env.WATCHDOG_PID !== undefined && env.WATCHDOG_PID !== String(pid)) return undefined;
  return Math.max(100, Math.floor(usec / 2000));
}

const oneLine = (text: string) => text.replace(/[\r\n]+/g, " ").slice(0, 500);
