import { constants } from "node:os";
import { PodvmError } from "../host/errors.js";

const RTMIN = 34;
const RTMAX = 64;
export const SIGTERM = 15;
export const SIGKILL = 9;

/**
 * Number of a signal as images and CRI write it: "SIGTERM", "TERM", "15", "SIGRTMIN+3", "SIGRTMINPLUS3". Empty is SIGTERM (OCI image
 * specification: StopSignal).
 */
export function signalNumber(text: string): number {
  if (text === "") return SIGTERM;
  const upper = text.toUpperCase();
  const name = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const number = /^\d{1,2}$/.test(text) ? Number(text) : (realTime(name) ?? constants.signals[name as NodeJS.Signals]);
  if (number === undefined || number < 1 || number > RTMAX) {
    throw new PodvmError(
      "invalid_argument",
      `wanted a signal such as SIGTERM or 15, found ${JSON.stringify(text.slice(0, 40))}`,
    );
  }
  return number;
}

/** The number's name as CRI has it: "SIGTERM", "SIGRTMIN", "SIGRTMINPLUS3", "SIGRTMAXMINUS14", "SIGRTMAX". Undefined where there is none. */
export function signalName(number: number): string | undefined {
  if (number === RTMIN) return "SIGRTMIN";
  if (number === RTMAX) return "SIGRTMAX";
  if (number > RTMIN && number < RTMAX) {
    const middle = RTMIN + 15; // as kill(1) names them: half from either end
    return number <= middle ? `SIGRTMINPLUS${number - RTMIN}` : `SIGRTMAXMINUS${RTMAX - number}`;
  }
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
}

function realTime(name: string): number | undefined {
  const match = /^SIGRT(MIN|MAX)(?:(?:\+|-|PLUS|MINUS)(\d{1,2}))?$/.exec(name);
  if (!match) return undefined;
  const offset = Number(match[2] ?? 0);
  return match[1] === "MIN" ? RTMIN + offset : RTMAX - offset;
}
