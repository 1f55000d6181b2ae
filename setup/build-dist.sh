#!/bin/bash
# Compiles into a new folder and swaps it in, so that an interruption leaves the old one whole and deleted sources leave no trace.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf dist.new dist.old
npx tsc -p tsconfig.json --outDir dist.new
[ ! -e dist ] || mv dist dist.old
mv dist.new dist
rm -rf dist.old
