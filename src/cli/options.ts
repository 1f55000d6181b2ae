/** Values of command line options, parsed once. Each throws commander's InvalidArgumentError, which names the option. */
import { isIP } from "node:net";
import { type Command, InvalidArgumentError, Option } from "commander";

export interface CommonOptions {
  config?: string;
  debug?: boolean;
}

export interface ClientOptions extends CommonOptions {
  socket?: string;
}

/** --config and --debug, which every command has. */
export function withConfig(command: Command): Command {
  return command
    .addOption(
      new Option("-c, --config <file>", "configuration file (default: /etc/podvm/config.toml where it exists)").env(
        "PODVM_CONFIG",
      ),
    )
    .option("--debug", "show where an error comes from");
}

/** For commands that talk to a running server. */
export function withServer(command: Command): Command {
  return withConfig(command).option("--socket <path>", "the server's socket (default: what the configuration says)");
}

export function integerBetween(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`wanted an integer from ${min} to ${max}`);
    }
    return value;
  };
}

const memoryUnits: Record<string, number> = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** "256m", "1.5g", "512Mi" → bytes. A number alone is refused: bytes and MiB would be confused. */
export function memoryBytes(text: string): bigint {
  const match = /^([0-9]{1,7}(?:\.[0-9]{1,3})?)([kmg])i?b?$/i.exec(text);
  const unit = memoryUnits[match?.[2]?.toLowerCase() ?? ""];
  const bytes = Math.round(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!Number.isSafeInteger(bytes) || bytes < 2 ** 22) {
    throw new InvalidArgumentError("wanted a size of at least 4m with its unit: 256m, 1.5g");
  }
  return BigInt(bytes);
}

/** "0.5", "2" → CPUs. */
export function cpuCount(text: string): number {
  const value = Number(text);
  if (!/^[0-9]{1,3}(\.[0-9]{1,3})?$/.test(text) || value < 0.01) {
    throw new InvalidArgumentError("wanted a number of CPUs from 0.01 to 999: 0.5, 2");
  }
  return value;
}

export interface EnvVariable {
  key: string;
  value: string;
}

/** "NAME=value", or "NAME" for the value that this shell has. Collects repeated options. */
export function envVariable(text: string, before: EnvVariable[] = []): EnvVariable[] {
  const match = /^([A-Za-z_][A-Za-z0-9_.-]*)(?:=([\s\S]*))?$/.exec(text);
  if (!match?.[1]) throw new InvalidArgumentError("wanted NAME=value, or NAME to pass this shell's value on");
  const value = match[2] ?? process.env[match[1]];
  if (value === undefined) throw new InvalidArgumentError(`wanted NAME=value: ${match[1]} is not set here`);
  return [...before, { key: match[1], value }];
}

export interface PortOption {
  hostIp: string;
  hostPort: number;
  containerPort: number;
  protocol: "tcp" | "udp" | "sctp";
}

/** "8080:80", "127.0.0.1:8080:80/tcp", "[::1]:53:53/udp". Collects repeated options. */
export function portMapping(text: string, before: PortOption[] = []): PortOption[] {
  const match = /^(?:(\[[0-9a-fA-F:]+\]|[0-9.]+):)?([0-9]{1,5}):([0-9]{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text);
  const hostIp = match?.[1]?.replace(/^\[|\]$/g, "") ?? "";
  const [hostPort, containerPort] = [Number(match?.[2]), Number(match?.[3])];
  const inRange = (port: number) => port >= 1 && port <= 65535;
  if (!match || !inRange(hostPort) || !inRange(containerPort) || (hostIp !== "" && isIP(hostIp) === 0)) {
    throw new InvalidArgumentError("wanted [IP:]HOSTPORT:CONTAINERPORT[/tcp|udp|sctp]: 8080:80");
  }
  const protocol = (match[4] ?? "tcp") as PortOption["protocol"];
  return [...before, { hostIp, hostPort, containerPort, protocol }];
}

/** A pod's name: a DNS label, since it becomes the host name. */
export function podName(text: string): string {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text)) {
    throw new InvalidArgumentError("wanted at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit");
  }
  return text;
}
