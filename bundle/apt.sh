# A private apt: its own sources, lists, cache and an empty package status, so that the host's package state is neither read nor
# touched. Signatures are checked against Debian's keyring. Sourced after lib.sh; sets APT_CONFIG.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
SUITE=trixie

# mirrors: sets MIRROR and SECURITY_MIRROR, from the environment or else from the machine's own apt sources, whatever their format.
mirrors() {
  local uris
  uris=$(env -u APT_CONFIG apt-get update --print-uris 2>/dev/null | tr -d "'" | awk '{print $1}' | grep '/dists/[a-z-]*/InRelease$' || true)
  MIRROR=${PODVM_DEBIAN_MIRROR:-$(sed -nE 's#/dists/(bookworm|trixie|forky|sid|stable|testing|oldstable|unstable)/InRelease$##p' <<<"$uris" | grep -m1 debian || true)}
  SECURITY_MIRROR=${PODVM_DEBIAN_SECURITY_MIRROR:-$(sed -nE 's#/dists/[a-z]+-security/InRelease$##p' <<<"$uris" | grep -m1 debian || true)}
  MIRROR=${MIRROR:-http://deb.debian.org/debian}
  SECURITY_MIRROR=${SECURITY_MIRROR:-${MIRROR%/}-security}
}

# private_apt: writes the configuration and fetches the lists.
private_apt() {
  local base=$CACHE/apt options=signed-by=$KEYRING
  [ -r "$KEYRING" ] || die "no $KEYRING: install the package debian-archive-keyring; packages are taken only with Debian's signature"
  mirrors
  mkdir -p "$base"/{etc/trusted.gpg.d,etc/preferences.d,etc/apt.conf.d,state/lists/partial,archives/partial}
  : >"$base/status"
  # Debian's archive of old states: its signatures are as good as ever, only their date of expiry is past.
  [[ $MIRROR$SECURITY_MIRROR != *snapshot.debian.org* ]] || options+=" check-valid-until=no"
  printf "deb [$options] %s %s main\n" "$MIRROR" "$SUITE" "$MIRROR" "$SUITE-updates" "$SECURITY_MIRROR" "$SUITE-security" >"$base/etc/sources.list"
  {
    # Proxies and certificates as the machine has them.
    env -u APT_CONFIG apt-config dump | grep -E '^Acquire::https?::' | grep -vi 'verify' || true
    cat <<CONF
Dir::Etc "$base/etc";
Dir::Etc::sourcelist "$base/etc/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "$base/state";
Dir::State::status "$base/status";
Dir::Cache "$base";
Dir::Cache::archives "$base/archives";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::AllowInsecureRepositories "false";
CONF
  } >"$base/apt.conf"
  export APT_CONFIG=$base/apt.conf
  say "reading package lists of Debian $SUITE from $MIRROR"
  apt-get update -qq >"$base/update.log" 2>&1 || die "cannot read the package lists from $MIRROR and $SECURITY_MIRROR (is the network there? PODVM_DEBIAN_MIRROR and PODVM_DEBIAN_SECURITY_MIRROR name others): $(tail -n 5 "$base/update.log")"
}

# resolve NAME[=VERSION]...: the complete closure, one package=version a line, sorted.
resolve() {
  apt-get install --simulate "$@" | sed -nE 's/^Inst ([^ ]+) .*\(([^ )]+).*/\1=\2/p' | sort
}
