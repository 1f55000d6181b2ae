#!/bin/bash
# `make cluster`: builds what is missing, then brings the cluster up.
set -euo pipefail
cd "$(dirname "$0")/../.."
setup/preflight.sh test
setup/setup.sh
test/setup/setup.sh
test/setup/kubernetes.sh
exec node dist/test/cluster/main.js up
