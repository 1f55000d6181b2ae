import { type Command, CommanderError } from "commander";
import { messageOf, PodvmError } from "../host/errors.js";
import { Exit, exitCodes } from "./exit.js";
import { buildProgram } from "./program.js";

/**
 * Runs a command line, answers the exit code. Errors go to standard error as one plain message; --debug adds where they come from.
 */
export async function main(argv: string[]): Promise<number> {
  const program = buildProgram();
  exitByThrowing(program);
  try {
    await program.parseAsync(argv);
    return exitCodes.ok;
  } catch (err) {
    if (err instanceof Exit) return err.code;
    if (err instanceof CommanderError) return err.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    report(err, argv.includes("--debug"));
    return exitCodes.failed;
  }
}

function exitByThrowing(command: Command): void {
  command.exitOverride();
  for (const inner of command.commands) exitByThrowing(inner);
}

/** An error that nobody foresaw always shows where it comes from: its words alone help nobody. */
export function report(err: unknown, debug: boolean): void {
  process.stderr.write(`podvm: ${messageOf(err)}\n`);
  const foreseen = err instanceof PodvmError;
  if (!debug && foreseen) return;
  for (let at: unknown = err; at instanceof Error; at = at.cause) process.stderr.write(`${at.stack}\n`);
}
