#!/bin/bash
# usage: crictl.sh FOLDER     builds crictl as pinned in tools/go.mod and go.sum into FOLDER
set -euo pipefail
out=$1
cd "$(dirname "$0")/tools"
[ ! -x "$out/crictl" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"
version=$(go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools)
CGO_ENABLED=0 nice go build -mod=readonly -trimpath -buildvcs=false \
  -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
  -o "$tmp/crictl" sigs.k8s.io/cri-tools/cmd/crictl
"$tmp/crictl" --version
rm -rf "$out"
mv "$tmp" "$out"
