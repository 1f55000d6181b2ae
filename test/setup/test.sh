#!/bin/bash
# `make test`: sets up what the server and the tests need, then runs every suite.
set -euo pipefail
cd "$(dirname "$0")/../.."
setup/preflight.sh test
setup/setup.sh
test/setup/setup.sh
exec node test/run.mjs "$@"
