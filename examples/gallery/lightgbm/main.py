"""MNIST in LightGBM: boosted trees of LightGBM.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import lightgbm
import numpy as np

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

train = lightgbm.Dataset(images[:4000, ::2], labels[:4000])
test = lightgbm.Dataset(test_images[:2000, ::2], test_labels[:2000], reference=train)
found = {}
model = lightgbm.train(
    {"objective": "multiclass", "num_class": 10, "num_leaves": 15, "learning_rate": 0.2, "metric": ["multi_logloss", "multi_error"], "verbose": -1},
    train, 20, valid_sets=[test], valid_names=["test"], callbacks=[lightgbm.record_evaluation(found)],
)
print("test loss %.4f test error %.4f" % (found["test"]["multi_logloss"][-1], found["test"]["multi_error"][-1]))
print("rounds %d" % model.current_iteration())
