# Downloads exactly the packages of pins.txt. Sourced after lib.sh and apt.sh.

# fetch: leaves every .deb of the file $pins in $CACHE/apt/archives and names them in DEBS. Each one's SHA-256 is checked against Debian's
# signed lists. What is there already and right is not fetched again; an interrupted download goes on where it stopped. Where Debian
# has replaced a pinned version, $pins becomes a file of what is taken instead.
fetch() {
  local archives=$CACHE/apt/archives sums extra
  sums=$(sums_file)
  mapfile -t wanted < <(grep -v '^#' "$pins")
  [ ${#wanted[@]} -gt 0 ] || die "$pins lists no packages; run: make bundle-update"
  if [ -f "$sums" ] && (cd "$archives" && sha256sum --status -c "$sums" 2>/dev/null); then
    say "all ${#wanted[@]} packages are in the cache"
    debs_of "$sums"
    return
  fi
  private_apt
  still_offered
  sums=$(sums_file)
  extra=$(resolve "${wanted[@]}" | comm -13 <(printf '%s\n' "${wanted[@]}" | sort) -) || die "the pinned packages do not fit together; run: make bundle-update"
  [ -z "$extra" ] || die "pins.txt is not complete, it lacks: $(tr '\n' ' ' <<<"$extra"). Run: make bundle-update"
  apt-cache show "${wanted[@]}" | sums_of_stanzas >"$sums.new"
  [ "$(wc -l <"$sums.new")" = ${#wanted[@]} ] || die "expected ${#wanted[@]} packages in Debian's lists, found $(wc -l <"$sums.new"); run: make bundle-update"
  drop_wrong "$archives" "$sums.new"
  say "downloading: $(apt-get install "${wanted[@]}" --download-only --assume-no 2>/dev/null | grep -m1 '^Need to get' || echo "${#wanted[@]} packages")"
  apt-get install --download-only -qq "${wanted[@]}" >"$CACHE/apt/download.log" 2>&1 ||
    die "the download failed (run again, it resumes): $(tail -n 5 "$CACHE/apt/download.log")"
  (cd "$archives" && sha256sum --quiet --strict -c "$sums.new" >&2) || die "a downloaded package is not what Debian signed (named above); remove $archives and run again"
  mv "$sums.new" "$sums"
  debs_of "$sums"
}

# drop_wrong ARCHIVES SUMS: removes cached packages that are damaged (apt itself looks only at their size).
drop_wrong() {
  local wrong
  wrong=$(cd "$1" && sha256sum --ignore-missing -c "$2" 2>/dev/null | sed -n 's/: FAILED$//p' || true)
  [ -z "$wrong" ] && return
  say "damaged in the cache, fetching again: $(tr '\n' ' ' <<<"$wrong")"
  (cd "$1" && xargs -d '\n' rm -f <<<"$wrong")
}

sums_file() { printf '%s' "$CACHE/apt/archives/$(sha256sum <"$pins" | cut -c1-16).sha256"; }

# still_offered: Debian keeps only the newest version of each suite. Where a pinned one has vanished the newest of all packages are taken, as
# `make bundle-update` would pin them: they carry Debian's signature too, and what replaces a version in a stable suite mends it. That is said, and
# stands in the manifest. PODVM_PINS=strict refuses instead.
still_offered() {
  local gone
  gone=$(apt-cache madison "${wanted[@]%%=*}" 2>/dev/null | tr -d ' ' | awk -F'|' '{print $1 "=" $2}' | sort -u |
    comm -13 - <(printf '%s\n' "${wanted[@]}" | sort))
  [ -n "$gone" ] || return 0
  [ "${PODVM_PINS:-}" != strict ] || die "these pinned versions have vanished from $MIRROR (Debian replaced them): $(tr '\n' ' ' <<<"$gone"). Run: make bundle-update"
  say "warning: these pinned versions have vanished from $MIRROR (Debian replaced them): $(tr '\n' ' ' <<<"$gone"); taking the newest versions instead. To pin those: make bundle-update; to refuse: PODVM_PINS=strict"
  local roots
  mapfile -t roots < <(grep -v '^#' "$here/packages.txt")
  mapfile -t wanted < <(resolve "${roots[@]}")
  [ ${#wanted[@]} -gt 0 ] || die "the packages of packages.txt cannot be installed together from Debian $SUITE"
  printf '%s\n' "${wanted[@]}" >"$CACHE/apt/pins.moved"
  pins=$CACHE/apt/pins.moved
}

# sums_of_stanzas: package stanzas → "sha256  file name in apt's cache" (a colon of the version is written %3a).
sums_of_stanzas() {
  awk '/^Package:/{p=$2} /^Version:/{v=$2; gsub(":", "%3a", v)} /^Architecture:/{a=$2} /^SHA256:/{s=$2} /^$/{flush()} END{flush()}
    function flush() { if (s != "" && !seen[p]++) print s "  " p "_" v "_" a ".deb"; s = "" }'
}

# debs_of SUMS: sets DEBS, the paths, and removes from the cache what is not pinned.
debs_of() {
  mapfile -t DEBS < <(awk -v d="$CACHE/apt/archives/" '{print d $2}' "$1")
  find "$CACHE/apt/archives" -maxdepth 1 \( -name '*.deb' -o -name '*.sha256*' \) -printf '%p\n' |
    grep -vxFf <(printf '%s\n' "${DEBS[@]}" "$1") | xargs -r -d '\n' rm -f || true
}
