#!/bin/bash
# What only the tests need, kept in $PODVM_CACHE (/var/cache/podvm) for every checkout:
#   crictl           built from the Go module proxy, version in tools/go.mod
#   stream-client    built from the Go module proxy: drives exec, attach and port-forward URLs with client-go
#   posix-checks     this checkout's test/posix: tries a file system from inside a container
#   docker-registry  Debian's package, unpacked and not installed: no service starts, the host's package state stays
#   busybox          Debian's, with its libraries, for the images that the tests make
#   apparmor         Debian's apparmor_parser, which compiles policies for the guest's kernel
# Kubernetes' own programs are named in build/test-tools.env too; kubernetes.sh builds those that a suite asks for.
# Each folder is named after its inputs and appears by rename, whole or not at all.
set -euo pipefail
. "$(dirname "$0")/../../setup/lib.sh"
cd "$ROOT"
lock_checkout

crictl_key=$(digest test/setup/tools test/setup/crictl.sh "$(go env GOVERSION)")
step crictl "crictl (from the Go module proxy)" "$crictl_key $CACHE" "$CACHE/tools/crictl-$crictl_key/crictl" \
  test/setup/crictl.sh "$CACHE/tools/crictl-$crictl_key"
stream_key=$(digest test/setup/tools-streaming "$(go env GOVERSION)")
step stream-client "stream-client (from the Go module proxy)" "$stream_key $CACHE" "$CACHE/tools/stream-client-$stream_key/stream-client" \
  test/setup/tools-streaming/build.sh "$CACHE/tools/stream-client-$stream_key"
posix_key=$(digest test/posix test/setup/posix-checks.sh "$(rustc --version)")
step posix-checks "posix-checks (test/posix)" "$posix_key $CACHE" "$CACHE/tools/posix-checks-$posix_key/posix-checks" \
  test/setup/posix-checks.sh "$CACHE/tools/posix-checks-$posix_key"
deb_key=$(digest test/setup/debs.sh)
step debs "registry and busybox (Debian packages)" "$deb_key $CACHE" "$CACHE/tools/debs-$deb_key/docker-registry" \
  test/setup/debs.sh "$CACHE/tools/debs-$deb_key"

# Where the tests find them (test/support/tools.ts).
cat >build/test-tools.env.tmp <<E2
crictl=$CACHE/tools/crictl-$crictl_key/crictl
stream-client=$CACHE/tools/stream-client-$stream_key/stream-client
posix-checks=$CACHE/tools/posix-checks-$posix_key/posix-checks
docker-registry=$CACHE/tools/debs-$deb_key/docker-registry
busybox=$CACHE/tools/debs-$deb_key/busybox
$(test/setup/kubernetes.sh --list)
apparmor=$CACHE/tools/debs-$deb_key/apparmor
assets=$ASSETS
E2
mv build/test-tools.env.tmp build/test-tools.env
