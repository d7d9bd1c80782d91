"""MNIST in XGBoost: boosted trees of XGBoost.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import numpy as np
import xgboost

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

train, test = xgboost.DMatrix(images[:4000, ::2], labels[:4000]), xgboost.DMatrix(test_images[:2000, ::2], test_labels[:2000])
found = {}
model = xgboost.train(
    {"objective": "multi:softprob", "num_class": 10, "max_depth": 4, "eta": 0.3, "tree_method": "hist", "eval_metric": ["mlogloss", "merror"]},
    train, 20, evals=[(train, "train"), (test, "test")], evals_result=found, verbose_eval=5,
)
print("train loss %.4f test loss %.4f test error %.4f" % (found["train"]["mlogloss"][-1], found["test"]["mlogloss"][-1], found["test"]["merror"][-1]))
print("rounds %d" % model.num_boosted_rounds())
