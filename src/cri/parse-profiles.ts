/** What confines a container beside capabilities: seccomp, AppArmor, SELinux. A confinement that was asked for and cannot be given must fail. */
import {
  SecurityProfile_ProfileType as ProfileType,
  type SELinuxOption,
  type SecurityProfile,
} from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import type { AppArmorChoice, SeccompChoice } from "../pod/types.js";
import { absolutePath, bad } from "./checks.js";

const LOCALHOST = "localhost/";

/** The profile, or the string that clients older than the field still send. Neither: what policy.unset_seccomp_profile says. */
export function parseSeccomp(profile: SecurityProfile | undefined, old: string): SeccompChoice {
  if (profile) {
    if (profile.profileType === ProfileType.Unconfined) return { type: "unconfined" };
    if (profile.profileType === ProfileType.RuntimeDefault) return { type: "default" };
    return { type: "localhost", path: absolutePath("security_context.seccomp.localhost_ref", profile.localhostRef) };
  }
  if (old === "") return { type: "unset" };
  if (old === "unconfined") return { type: "unconfined" };
  if (old === "runtime/default" || old === "docker/default") return { type: "default" };
  if (!old.startsWith(LOCALHOST)) {
    throw bad("security_context.seccomp_profile_path", "runtime/default, unconfined or localhost/PATH", old);
  }
  return {
    type: "localhost",
    path: absolutePath("security_context.seccomp_profile_path", old.slice(LOCALHOST.length)),
  };
}

/** The field wins over the deprecated string (CRI). RuntimeDefault is no profile: CRI calls it "equivalent to not specifying a profile". */
export function parseAppArmor(profile: SecurityProfile | undefined, old: string): AppArmorChoice {
  if (profile) {
    if (profile.profileType !== ProfileType.Localhost) return { type: "unconfined" };
    return { type: "localhost", profile: profileName("security_context.apparmor.localhost_ref", profile.localhostRef) };
  }
  if (old === "" || old === "unconfined" || old === "runtime/default") return { type: "unconfined" };
  if (!old.startsWith(LOCALHOST)) {
    throw bad("security_context.apparmor_profile", "runtime/default, unconfined or localhost/NAME", old);
  }
  return { type: "localhost", profile: profileName("security_context.apparmor_profile", old) };
}

/** As apparmor.d(5) has names, without a namespace (":NS:"); with or without "localhost/" before it: clients differ. */
function profileName(what: string, value: string): string {
  const name = value.startsWith(LOCALHOST) ? value.slice(LOCALHOST.length) : value;
  if (!/^[A-Za-z0-9_/.@{}*+-][\x21-\x7e]{0,254}$/.test(name)) {
    throw bad(what, "the name of a profile, at most 255 printable characters", value);
  }
  return name;
}

export function refuseSelinux(options: SELinuxOption | undefined): void {
  if (options && (options.user || options.role || options.type || options.level)) {
    throw new PodvmError(
      "unimplemented",
      "SELinux options are not supported: the guest kernel has no SELinux policy; take seLinuxOptions out",
    );
  }
}
