#!/bin/bash
# usage: kubernetes.sh [NAME…]     builds Kubernetes' own programs, and grpc-health for its gRPC probes (default: all of those below), into
# $PODVM_CACHE/tools, from the Go module proxy; versions and checksums are in tools-kubernetes/. Cold, on two processors: kubelet 5 to 17
# minutes, apiserver and controller-manager 5 to 7 each, the rest below 3. With --list it prints name=path of each and builds nothing.
set -euo pipefail
. "$(dirname "$0")/../../setup/lib.sh"
cd "$ROOT"

packages="
kubelet                 k8s.io/kubernetes/cmd/kubelet
kube-apiserver          k8s.io/kubernetes/cmd/kube-apiserver
kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
kube-scheduler          k8s.io/kubernetes/cmd/kube-scheduler
kube-proxy              k8s.io/kubernetes/cmd/kube-proxy
kubectl                 k8s.io/kubernetes/cmd/kubectl
etcd                    go.etcd.io/etcd/server/v3
grpc-health             ./grpc-health
"
key=$(digest test/setup/tools-kubernetes "$(go env GOVERSION)")
folder() { echo "$CACHE/tools/$1-$key"; }

if [ "${1:-}" = --list ]; then
  while read -r name _; do [ -z "$name" ] || echo "$name=$(folder "$name")/$name"; done <<<"$packages"
  exit 0
fi
lock_checkout
for name in ${*:-$(awk '{ print $1 }' <<<"$packages")}; do
  package=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$packages")
  [ -n "$package" ] || die "no program $name of Kubernetes is known here; there are: $(awk '{ print $1 }' <<<"$packages" | xargs)"
  [ -x "$(folder "$name")/$name" ] || [ "$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')" -ge 4000 ] ||
    die "4000 MiB of free space are wanted in $CACHE to build $name: free some, or point PODVM_CACHE elsewhere"
  step "$name" "$name (from source; minutes the first time)" "$key $CACHE" "$(folder "$name")/$name" \
    test/setup/tools-kubernetes/build.sh "$(folder "$name")" "$name" "$package"
done
