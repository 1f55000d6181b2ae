#!/bin/bash
# Makes everything that the server needs, each part only when its inputs changed. `setup.sh build` stops before what lies
# outside this folder (bundle, guest image, configuration).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
GOAL=${1:-run}
setup/preflight.sh "$GOAL"
lock_checkout

step npm "npm packages" "$(digest package.json package-lock.json "$(node -p process.version)")" \
  node_modules/.package-lock.json npm ci --no-audit --no-fund
step gen "protobuf code" "$(digest proto buf.yaml buf.gen.yaml package-lock.json)" \
  src/gen/agent npx buf generate
step dist "TypeScript" "$(digest src test tsconfig.json package-lock.json)" \
  dist/src/main.js setup/build-dist.sh
step rust "Rust: agent, launcher, share (minutes the first time)" \
  "$(digest Cargo.toml Cargo.lock guest/agent host proto/podvm "$(rustc --version)")" \
  "target/$RUST_TARGET/release/podvm-agent" setup/build-rust.sh
[ "$GOAL" = build ] && exit 0

step launch "install launcher, share and agent" \
  "$(digest "target/$RUST_TARGET/release/podvm-"{launch,share,agent} "assets=$ASSETS")" \
  "$ASSETS/bin/podvm-launch" setup/install-launch.sh
step bundle "runtime bundle: hypervisor, kernel, tools" "$(digest bundle "assets=$ASSETS")" \
  "$ASSETS/bundle/current/manifest.json" bundle/build.sh
step guest "guest image" \
  "$(digest guest/image bundle "target/$RUST_TARGET/release/podvm-agent" "assets=$ASSETS")" "$ASSETS/guest/current/manifest.json" \
  guest/image/build.sh "target/$RUST_TARGET/release/podvm-agent"
