"""Reads what the network learns from: arrays of NumPy in one file.

Written by mlaas from code.composed.input.
"""
import glob
import os

import numpy as np

import mlaas

DATA = "digits"  # of the job's data
SHAPE = (8, 8, 1)  # of one example
FILE = ""  # in the data; "" is the only one there
CLASSES = 10


def read(seed, split):
    """Examples to learn from, to validate by and to test by.

    Returns: three pairs (inputs, targets), or None where there are none:
        inputs of shape (N,) + SHAPE, float32; targets of shape (N,), int64.
    Raises: ValueError, saying what in the data is not as the job has it.
    """
    learn, test = load()
    order = np.random.RandomState(seed).permutation(len(learn[0]))
    held = int(len(order) * split)
    validate = (learn[0][order[:held]], learn[1][order[:held]]) if held else None
    learn = (learn[0][order[held:]], learn[1][order[held:]])
    return learn, validate, test


def examples(x, y, where):
    """Inputs and targets as the network takes them."""
    if len(x) != len(y) or not len(x):
        raise ValueError("%s has %d inputs and %d targets, want as many of one as of the other, at least 1" % (where, len(x), len(y)))
    if np.prod(x.shape[1:], dtype=int) != np.prod(SHAPE, dtype=int):
        raise ValueError("the inputs in %s have the shape %s, and input.shape is %s" % (where, x.shape[1:], SHAPE))
    x = np.ascontiguousarray(x, np.float32).reshape((len(x),) + SHAPE)
    y = np.asarray(y).astype(np.int64).reshape(len(y))
    if not 0 <= y.min() <= y.max() < CLASSES:
        raise ValueError("the targets in %s go from %d to %d, and the output tells %d classes apart, 0 to %d" % (where, y.min(), y.max(), CLASSES, CLASSES - 1))
    return x, y


def load():
    place = mlaas.data(DATA)
    path = os.path.join(place, FILE) if FILE else place
    if os.path.isdir(path):
        found = sorted(glob.glob(os.path.join(glob.escape(path), "*.npz")))
        if len(found) != 1:
            raise ValueError("%s has %d files .npz, want one: name it as input.file" % (path, len(found)))
        path = found[0]
    with np.load(path) as arrays:  # numbers alone: pickled objects are refused
        if "x_train" in arrays:
            learn = examples(arrays["x_train"], arrays["y_train"], path)
        elif "x" in arrays:
            learn = examples(arrays["x"], arrays["y"], path)
        else:
            raise ValueError("%s has the arrays %s, want x_train and y_train, or x and y" % (path, ", ".join(arrays)))
        return learn, examples(arrays["x_test"], arrays["y_test"], path) if "x_test" in arrays else None
