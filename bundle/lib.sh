# Shared by the scripts that make asset folders (bundle/, guest/image/). Sourced, not run: bash, set -euo pipefail.
#
# An asset folder is $ASSETS/<kind>/<digest16>, read-only and owned by root, with a link $ASSETS/<kind>/current to it. It is built
# beside its final place as .build-XXXXXX and renamed, so that whoever sees it sees it whole.

umask 022       # VMMs, which run as users of their own, read these folders
export LC_ALL=C # sorted the same, messages the same, everywhere

ASSETS=$(realpath -ms "${PODVM_ASSETS:-/var/lib/podvm/assets}")
CACHE=$ASSETS/cache

say() { printf '[%s] %s\n' "$KIND" "$*" >&2; }
die() {
  printf '[%s] error: %s\n' "$KIND" "$*" >&2
  exit 1
}

# need_root_debian: what every builder needs of the machine, said before anything is done.
need_root_debian() {
  [ "$(id -u)" = 0 ] || die "must run as root (asset folders are owned by root); found uid $(id -u). Run it with sudo."
  [[ $ASSETS =~ ^/[A-Za-z0-9/._-]+$ ]] || die "PODVM_ASSETS: wanted a path of letters, digits and . _ - /, found $ASSETS"
  [ "$(uname -m)" = x86_64 ] || die "only x86_64 is supported; this machine is $(uname -m)"
  need_tools apt-get apt-config dpkg-deb flock sha256sum tar realpath awk
}

# need_tools NAME...: dies with all that lack.
need_tools() {
  local lacking=() tool
  for tool; do command -v "$tool" >/dev/null || lacking+=("$tool"); done
  [ ${#lacking[@]} = 0 ] || die "not found on this machine: ${lacking[*]}. PodVM's setup needs Debian 12 or 13 (or a distribution of its family)."
}

# need_space MIB: free space below $ASSETS.
need_space() {
  local free
  free=$(df -Pm "$ASSETS" | awk 'NR==2{print $4}')
  [ "$free" -ge "$1" ] || die "needs $1 MiB free in $ASSETS, found $free MiB. Make space, or set PODVM_ASSETS to another place."
}

# digest_of LABEL FILE...: SHA-256 over names and contents of the files, in the order given, after the label.
digest_of() {
  local label=$1 file
  shift
  { printf '%s\n' "$label"; for file; do printf '%s %s\n' "$(basename "$file")" "$(sha256sum <"$file")"; done; } | sha256sum | cut -c1-64
}

# is_current DIGEST16: the folder is there, whole, and `current` points to it.
is_current() {
  [ -f "$ASSETS/$KIND/$1/manifest.json" ] && [ "$(readlink "$ASSETS/$KIND/current" 2>/dev/null)" = "$1" ]
}

# lock: one builder per kind at a time; the lock goes with the process. Then clears what an interrupted build left.
lock() {
  mkdir -p "$ASSETS/$KIND" "$CACHE"
  exec 9>"$ASSETS/$KIND/.lock"
  if ! flock -n 9; then
    say "another build is under way; waiting for it"
    flock -w 1800 9 || die "another build holds $ASSETS/$KIND/.lock since more than 30 minutes"
  fi
  find "$ASSETS/$KIND" -mindepth 1 -maxdepth 1 -name '.build-*' -exec rm -rf {} +
}

# seal FOLDER: owned by root and writable by nobody.
seal() {
  chown -R 0:0 "$1"
  chmod -R a-w,a+rX,u-s,g-s "$1"
}

# publish BUILD DIGEST16: the finished folder gets its name. A folder of that name without a manifest cannot be (renames are whole).
publish() {
  rm -rf "${ASSETS:?}/$KIND/$2"
  mv -T "$1" "$ASSETS/$KIND/$2"
}

# make_current DIGEST16: switches the link in one step.
make_current() {
  ln -sfn "$1" "$ASSETS/$KIND/.current.$$"
  mv -T "$ASSETS/$KIND/.current.$$" "$ASSETS/$KIND/current"
}
