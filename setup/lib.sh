# Sourced by the scripts of setup/ and test/setup/: where things are, and steps that run once per state of their inputs.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ASSETS=${PODVM_ASSETS:-/var/lib/podvm/assets}
export CACHE=${PODVM_CACHE:-/var/cache/podvm}
RUST_TARGET=x86_64-unknown-linux-musl
STAMPS=$ROOT/build/stamps
LOGS=$ROOT/build/log

die() {
  printf 'podvm: %s\n' "$*" >&2
  exit 1
}

# version_at_least HAVE WANT
version_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# digest ARGUMENT…: of the names and contents of files and folders; of an argument that is no path, as name=value, the text.
digest() {
  {
    local path
    for path in "$@"; do
      if [ -e "$path" ]; then
        find "$path" -type f -not -path '*/node_modules/*' -print0 | sort -z | xargs -0r sha256sum
      else
        printf 'text %s\n' "$path"
      fi
    done
  } | sha256sum | cut -c 1-32
}

# One setup at a time per checkout: a second one waits for the first, then finds everything done.
lock_checkout() {
  mkdir -p "$STAMPS" "$LOGS"
  exec 9>"$ROOT/build/setup.lock"
  if ! flock -n 9; then
    echo "  waiting for another setup in this folder"
    flock -w 3600 9 || die "another setup has held $ROOT/build/setup.lock for an hour: end it, then try again"
  fi
}

# identity FILE: where it really is, its size and time.
identity() { echo "$(realpath "$1") $(stat -L -c '%s %Y' "$1")"; }

# last_words FILE: the end of its last line that is not empty, plain, as much as fits beside a step's title.
last_words() { grep -v '^[[:space:]]*$' "$1" 2>/dev/null | tail -n 1 | tr -dc '[:print:]' | cut -c "1-$((${COLUMNS:-80} > 90 ? ${COLUMNS:-80} - 54 : 26))"; }

# step NAME TITLE KEY OUTPUT COMMAND…
# Runs COMMAND unless it succeeded before with the same KEY and OUTPUT is still the file that it was then (another checkout may
# have put its own in the place of a shared one). What it says goes to build/log/NAME.log, whose end is shown when it fails. The stamp is written after success only, by rename: an interruption leaves none.
step() {
  local name=$1 title=$2 key=$3 output=$4 stamp=$STAMPS/$1 log=$LOGS/$1.log start=$SECONDS ticker=
  shift 4
  if [ -e "$output" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key $(identity "$output")" ]; then
    return
  fi
  rm -f "$stamp"
  if [ -t 1 ]; then
    while sleep 1; do
      printf '\r  %-44s %4ds  %s\e[K' "$title" $((SECONDS - start)) "$(last_words "$log")"
    done 9>&- &
    ticker=$!
  else
    printf '  %-44s …\n' "$title"
  fi
  # The command inherits the lock on purpose: if this script is killed and it lives on, the next setup waits for it.
  if "$@" >"$log" 2>&1 </dev/null; then
    [ -z "$ticker" ] || { kill "$ticker" && wait "$ticker"; } 2>/dev/null
    [ -e "$output" ] || die "$title: ended well but made no $output (log: $log)"
    printf '%s\n' "$key $(identity "$output")" >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
    [ -z "$ticker" ] || printf '\r\e[K'
    printf '  %-44s %4ds  done\n' "$title" $((SECONDS - start))
  else
    local code=$?
    [ -z "$ticker" ] || { kill "$ticker" && wait "$ticker"; printf '\r\e[K'; } 2>/dev/null
    printf '  %-44s %4ds  FAILED (exit code %d)\n' "$title" $((SECONDS - start)) $code
    tail -n 40 "$log" | sed 's/^/    | /' >&2
    die "$title failed; the whole log is $log. Put right what it names, then run the same command again: it goes on from here"
  fi
}
