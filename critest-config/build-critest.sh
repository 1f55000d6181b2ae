#!/bin/bash
# usage: build-critest.sh FOLDER     builds critest and ginkgo (its parallel runs start it) as pinned in go.mod and go.sum into FOLDER
set -euo pipefail
out=$1
cd "$(dirname "$0")"
[ ! -x "$out/critest" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"
version=$(go list -mod=readonly -m -f '{{.Version}}' sigs.k8s.io/cri-tools)
export CGO_ENABLED=0
nice go test -c -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
  -o "$tmp/critest" sigs.k8s.io/cri-tools/cmd/critest
nice go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$tmp/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
"$tmp/critest" -version
rm -rf "$out"
mv "$tmp" "$out"
