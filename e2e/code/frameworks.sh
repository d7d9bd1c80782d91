#!/usr/bin/env bash
# frameworks.sh FOLDER: the tests of python/tests for each environment of
# environments.sh. What an environment is for must be there, or it fails.
set -euo pipefail
cd "$(dirname "$0")/../../python"

folder=$1 failed=0
run() { # NAME MODULES TESTS [STRANGERS]
  echo "frameworks: $1"
  MLAAS_FRAMEWORKS=$2 "$folder/$1/bin/python" -m pytest -q -p no:cacheprovider tests/test_frameworks.py -k "$3" || failed=1
  if [ -n "${4-}" ]; then
    MLAAS_FRAMEWORKS=$2 "$folder/$1/bin/python" -m pytest -q -p no:cacheprovider tests/test_strangers.py -k "$4" || failed=1
  fi
}

run tensorflow "tensorflow keras tensorboard" "tf1 or tf2 or keras or tensorboard_of" "vae or tape"
run tensorflow-old "tensorflow tensorflow_estimator keras sklearn tensorboardX" "tf1_session or tf1_monitored or tf2 or estimator or keras or sklearn or tensorboard" "session"
run torch "torch keras lightning pytorch_lightning transformers accelerate matplotlib tensorboard" "torch or lightning or transformers or keras or matplotlib" "trainer or gan or accumulate or notebook"
run torch-old "torch lightning pytorch_lightning transformers accelerate" "torch or lightning or transformers"
run jax "jax keras tensorboardX hydra optax absl click matplotlib" "jax or keras or tensorboardX or hydra or absl or click or matplotlib" "config or command"
run trees "xgboost lightgbm sklearn" "xgboost or lightgbm or sklearn" "search or boosting"
run trees-old "xgboost lightgbm sklearn" "xgboost or lightgbm or sklearn"

# Training on several replicas: programs of one, on two and three processes.
"$folder/torch/bin/python" -m pytest -q -p no:cacheprovider tests/test_spread_torch.py || failed=1
"$folder/torch-old/bin/python" -m pytest -q -p no:cacheprovider tests/test_spread_torch.py || failed=1
exit $failed
