#!/usr/bin/env bash
# environments.sh FOLDER [NAME...]: the Python environments of e2e/code, made once,
# each with the frameworks that a program of examples/gallery or python/tests needs,
# in a version of now and in older ones. What is there already stays. With names:
# those; without: all but the ones of benches.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=$1
shift
names=" $* "
uv=${UV:-uv}
mkdir -p "$folder"

make_() { # NAME PACKAGES: an environment, whole or not at all
  local name=$1 at=$folder/$1
  shift
  case $names in
  "  ") [[ $name = bench-* ]] && return ;;
  *" $name "*) ;;
  *) return ;;
  esac
  [ -e "$at/.made" ] && return
  echo "environments: $name" >&2
  rm -rf "$at"
  "$uv" venv -q --python 3.11 "$at"
  "$uv" pip install -q --python "$at/bin/python" pytest "$@"
  case $name in
  bench-torch) torch "$at" torch ;;
  torch) torch "$at" torch lightning pytorch-lightning lightning-utilities torchmetrics transformers accelerate ;;
  torch-old) torch "$at" "torch==2.4.*" "lightning==2.2.*" "pytorch-lightning==2.2.*" lightning-utilities "torchmetrics==1.4.*" "transformers==4.44.*" "accelerate==0.33.*" ;;
  esac
  touch "$at/.made"
}

# The public index has PyTorch for CUDA alone, with gigabytes that a machine
# without it does not need.
torch() {
  local at=$1
  shift
  "$uv" pip install -q --python "$at/bin/python" --no-deps "$@" >&2 && python3 "$here/cpu_torch.py" "$at" >&2
}
beside=(numpy filelock typing-extensions sympy networkx jinja2 fsspec packaging pyyaml tqdm regex requests safetensors psutil aiohttp tensorboard matplotlib setuptools)

make_ tensorflow tensorflow-cpu numpy tensorboard
make_ tensorflow-old "tensorflow-cpu==2.15.*" "scikit-learn==1.2.*" "numpy<2" tensorboardX
make_ torch "${beside[@]}" huggingface-hub tokenizers keras
make_ torch-old "${beside[@]}" "setuptools<80" "numpy<2" "huggingface-hub<0.25" "tokenizers<0.20"
make_ jax jax optax keras tensorboardX hydra-core absl-py click matplotlib
make_ trees xgboost-cpu lightgbm scikit-learn matplotlib pandas
make_ trees-old "xgboost==1.7.*" "lightgbm==3.3.*" "scikit-learn==1.3.*" "numpy<2" "pandas<2.2"
# For bench/tracker, which sets others beside.
make_ bench-tensorflow tensorflow-cpu numpy mlflow-skinny pandas wandb
make_ bench-torch "${beside[@]}" mlflow-skinny wandb

# The same PyTorch as a wheel, for the environments that the platform makes.
python3 "$here/cpu_torch.py" "$folder/torch" "$folder/index" >&2
