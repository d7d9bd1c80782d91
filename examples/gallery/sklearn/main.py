"""MNIST in scikit-learn: a pipeline, a network and a search.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

warnings.simplefilter("ignore")

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

images, labels = images[:5000], labels[:5000]
pipeline = make_pipeline(PCA(40, random_state=0), LogisticRegression(C=0.5, max_iter=200)).fit(images, labels)
print("pipeline: f1 %.4f" % f1_score(test_labels, pipeline.predict(test_images), average="macro"))
network = MLPClassifier((100,), max_iter=12, random_state=0).fit(images, labels)
print("network: last loss %.4f, test accuracy %.4f" % (network.loss_, accuracy_score(test_labels, network.predict(test_images))))
print("parameters %d" % sum(w.size for w in network.coefs_ + network.intercepts_))
