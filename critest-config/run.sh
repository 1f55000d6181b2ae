#!/bin/bash
# `make critest`: sets up what is missing, then runs critest. FOCUS, SKIP, PARALLEL, ONLY and what else there is: critest-config/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
setup/preflight.sh test
setup/setup.sh
test/setup/setup.sh
critest-config/setup.sh
exec node dist/test/critest/main.js "$@"
