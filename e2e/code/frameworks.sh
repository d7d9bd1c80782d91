#!/usr/bin/env bash
# frameworks.sh FOLDER: the tests of python/tests for each environment of
# environments.sh. What an environment is for must be there, or it fails.
set -euo pipefail
cd "$(dirname "$0")/../../python"

folder=$1 failed=0
run() { # NAME MODULES TESTS
  echo "frameworks: $1"
  MLAAS_FRAMEWORKS=$2 "$folder/$1/bin/python" -m pytest -q -p no:cacheprovider tests/test_frameworks.py -k "$3" || failed=1
}

run tensorflow "tensorflow keras" "tf1 or tf2 or keras or tensorboard_of"
run tensorflow-old "tensorflow tensorflow_estimator keras sklearn tensorboardX" "tf1_session or tf1_monitored or tf2 or estimator or keras or sklearn or tensorboard"
run torch "torch keras lightning pytorch_lightning transformers matplotlib" "torch or lightning or transformers or keras or matplotlib"
run torch-old "torch lightning pytorch_lightning transformers" "torch or lightning or transformers"
run jax "jax keras tensorboardX hydra absl click matplotlib" "jax or keras or tensorboardX or hydra or absl or click or matplotlib"
run trees "xgboost lightgbm sklearn" "xgboost or lightgbm or sklearn"
run trees-old "xgboost lightgbm sklearn" "xgboost or lightgbm or sklearn"
exit $failed
