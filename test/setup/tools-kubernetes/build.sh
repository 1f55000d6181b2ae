#!/bin/bash
# usage: build.sh FOLDER NAME PACKAGE     builds one of Kubernetes' programs, as pinned in go.mod and go.sum, into FOLDER/NAME
# `go build -v` names each package as it is compiled: "n of m packages" is what the waiting user sees.
set -euo pipefail
out=$1 name=$2 package=$3
cd "$(dirname "$0")"
[ ! -x "$out/$name" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"
export CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
version_package=k8s.io/component-base/version
total=$(go list -mod=readonly -deps "$package" | wc -l)
nice go build -v -mod=readonly -trimpath -buildvcs=false \
  -ldflags "-s -w -X $version_package.gitVersion=$version -X $version_package.gitMajor=1 -X $version_package.gitMinor=$(cut -d. -f2 <<<"$version")" \
  -o "$tmp/$name" "$package" 2>&1 | awk -v total="$total" '/^go: / { print; next } { print ++n " of " total " packages: " $0; fflush() }'
rm -rf "$out"
mv "$tmp" "$out"
