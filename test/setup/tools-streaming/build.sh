#!/bin/bash
# usage: build.sh FOLDER     builds stream-client (client-go as pinned in go.mod and go.sum) into FOLDER
set -euo pipefail
out=$1
cd "$(dirname "$0")"
[ ! -x "$out/stream-client" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"
CGO_ENABLED=0 nice go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$tmp/stream-client" .
rm -rf "$out"
mv "$tmp" "$out"
