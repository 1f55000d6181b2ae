#!/bin/bash
# usage: test.sh [SUITE…]     `make test` and the like: sets up what the server and the suites need, then runs these (default: the usual ones).
set -euo pipefail
cd "$(dirname "$0")/../.."
setup/preflight.sh test
setup/setup.sh
test/setup/setup.sh
[[ $# -gt 0 && " $* " != *" critest "* ]] || critest-config/setup.sh
case " $* " in
*" cluster "*) test/setup/kubernetes.sh ;;
*" kubelet "*) test/setup/kubernetes.sh kubelet grpc-health ;;
esac
exec node test/run.mjs "$@"
