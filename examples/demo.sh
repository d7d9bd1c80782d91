#!/usr/bin/env bash
# The main job, from nothing: starts a platform (or uses the one in .mlaas that
# is up), fetches MNIST, trains it on 1 parameter server and 2 workers with
# every line shown as it comes, and checks what came of it.
set -euo pipefail
cd "$(dirname "$0")/.."
mlaas=$PWD/bin/mlaas
dir=${DEMO_DIR:-$PWD/.mlaas}
began=$SECONDS
bold= plain=
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain" >&2; }

for need in python3 npm; do
  command -v "$need" > /dev/null || { echo "the demo needs $need; see README.md" >&2; exit 2; }
done

say "1 of 4  the platform"
mkdir -p "$dir"
export MLAAS_DIR=$dir MLAAS_URL= MLAAS_TOKEN=
if "$mlaas" status > /dev/null 2>&1; then
  echo "using the platform that is up at $(cat "$dir/url")" >&2
else
  "$mlaas" up --dir "$dir" --listen 127.0.0.1:0 > "$dir/up.out" 2> "$dir/up.err" &
  up=$!
  trap '"$mlaas" down --dir "$dir" > /dev/null 2>&1 || kill "$up" 2> /dev/null || true; wait "$up" 2> /dev/null || true' EXIT
  for _ in $(seq 300); do
    grep -q '^ready ' "$dir/up.out" && break
    kill -0 "$up" 2> /dev/null || { cat "$dir/up.err" >&2; exit 1; }
    sleep 0.1
  done
  grep '^ready ' "$dir/up.out" >&2
fi
platform=$((SECONDS - began))

say "2 of 4  the data: MNIST, 60,000 + 10,000 digits"
from=$SECONDS
data=$(bash examples/get_mnist.sh)
"$mlaas" data put mnist "$data"
fetched=$((SECONDS - from))

say "3 of 4  training: 1 parameter server, 2 workers"
from=$SECONDS
"$mlaas" run examples/mnist-ps --follow
trained=$((SECONDS - from))

say "4 of 4  what came of it"
"$mlaas" metrics mnist-ps -o json | python3 examples/check_demo.py
cat >&2 << END

platform $platform s, data $fetched s, environment and training $trained s: $((SECONDS - began)) s in all

Next:
  make up                                       leave a platform running, then in another shell:
  export MLAAS_DIR=$dir
  bin/mlaas replicas mnist-ps                   the replicas of the newest run, and how each one ended
  bin/mlaas logs mnist-ps --replica worker-1    the log of one of them, kept after it is gone
  bin/mlaas metrics mnist-ps                    every curve, from the terminal
  bin/mlaas run examples/mnist-single/sklearn.yaml --follow
  bin/mlaas --help
END
