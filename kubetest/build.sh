#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster into a folder of the user's cache
# that is named by what is in this one, and prints that folder. What is there
# already is not built again. The first time takes some ten minutes of two cores.
set -euo pipefail
cd "$(dirname "$0")"

version=$(sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\)$|\1|p' go.mod)
hash=$(LC_ALL=C; cat go.* build.sh cmd/*/*.go | sha256sum | cut -c1-16) # internal/kubetest reckons the same
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlaas/kube
folder=$cache/$hash
[ -d "$folder" ] && { echo "$folder"; exit; }

mkdir -p "$cache"
exec 9> "$cache/lock" # two at once would build all of it twice
flock 9
[ -d "$folder" ] && { echo "$folder"; exit; }
new=$(mktemp -d "$cache/new-XXXXXX")
trap 'rm -rf "$new"' EXIT

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=$(cut -dv -f2 <<< "$version" | cut -d. -f1) -X $package.gitMinor=$(cut -d. -f2 <<< "$version")"
done
# go build -v names each package that it compiles: some 3,500 when none is cached.
build() {
  go build -v -trimpath -ldflags "-s -w$stamp" "$@" 2>&1 |
    awk -v what="$(basename "${@: -1}")" 'BEGIN {from = systime()}
      /^[a-z][^ ]*$/ {if (++n % 250 == 0) {printf "kube-bin: %d packages for %s, %d s\n", n, what, systime() - from; fflush()}; next}
      {print}' >&2
}
echo "kube-bin: Kubernetes $version into $folder" >&2
build -o "$new/kt" ./cmd/kt
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet containerd image-import; do
  ln -s kt "$new/$name"
done
build -o "$new/" ./cmd/pause $(go list -e -f '{{.ImportPath}}' tool)
# What fake nodes do is a file of kwok's own module: nodes beat, pods become ready, pods that are deleted go.
stages=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
for file in "$stages"/{node/fast,node/heartbeat-with-lease,pod/fast}/*.yaml; do
  [ "$(basename "$file")" = kustomization.yaml ] || { echo ---; cat "$file"; }
done > "$new/stages.yaml"
chmod 755 "$new"
mv "$new" "$folder"
echo "$folder"
