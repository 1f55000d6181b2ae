#!/bin/bash
# critest, ginkgo and what the images are made of, kept in $PODVM_CACHE (/var/cache/podvm) for every checkout, each in a folder named after its inputs.
set -euo pipefail
. "$(dirname "$0")/../setup/lib.sh"
cd "$ROOT"
lock_checkout

here=critest-config
critest_key=$(digest $here/go.mod $here/go.sum $here/build-critest.sh "$(go env GOVERSION)")
step critest "critest (from the Go module proxy)" "$critest_key $CACHE" "$CACHE/tools/critest-$critest_key/critest" \
  $here/build-critest.sh "$CACHE/tools/critest-$critest_key"
images_key=$(digest $here/images $here/build-images.sh)
step critest-images "busybox, nginx for critest (Debian packages)" "$images_key $CACHE" "$CACHE/tools/critest-images-$images_key/pause" \
  $here/build-images.sh "$CACHE/tools/critest-images-$images_key"

# Where test/support/tools.ts finds them.
cat >build/critest-tools.env.tmp <<E2
critest=$CACHE/tools/critest-$critest_key/critest
ginkgo=$CACHE/tools/critest-$critest_key/ginkgo
critest-images=$CACHE/tools/critest-images-$images_key
E2
mv build/critest-tools.env.tmp build/critest-tools.env
