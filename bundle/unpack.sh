# Unpacks packages and takes files out of them. Sourced after lib.sh.

# unpack ROOT LISTS DEB...: all into one tree; LISTS/<package> names the files of each.
unpack() {
  local root=$1 lists=$2
  shift 2
  mkdir -p "$root" "$lists"
  printf '%s\n' "$@" | xargs -P "$(nproc)" -d '\n' -I{} sh -euc '
    name=$(basename "$1"); name=${name%%_*}
    dpkg-deb --fsys-tarfile "$1" | tar -x --no-same-owner -v -C "$2" >"$3/$name"' sh {} "$root" "$lists"
}

# take SRC DST: copies one file (a link is followed) out of the tree; DST is a folder or a name. Remembers the package.
take() {
  local real
  real=$(realpath -e "$ROOT/$1" 2>/dev/null) || die "the Debian packages no longer hold $1: the recipe (bundle/build.sh) must follow"
  cp --no-preserve=mode,timestamps "$real" "$2"
  printf './%s\n' "${real#"$ROOT"/}" >>"$TAKEN"
}

# libraries FILE...: every shared library that the files need, transitively, as paths in the tree.
libraries() {
  local file ld=$ROOT/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
  for file; do
    "$ld" --library-path "$ROOT/usr/lib/x86_64-linux-gnu" --list "$file" ||
      die "a shared library of $file lacks (see above)"
  done | awk '/=> \//{print $3}' | sort -u
}

# packages_taken: names of the packages of which a file was taken.
packages_taken() {
  (cd "$LISTS" && sort -u "$TAKEN" | grep -lxFf - -- * | sort)
}
