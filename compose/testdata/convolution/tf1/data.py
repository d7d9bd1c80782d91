"""Reads what the network learns from: files in the format of MNIST.

Written by mlaas from code.composed.input.
"""
import gzip
import os
import struct

import numpy as np

import mlaas

DATA = "digits"  # of the job's data
SHAPE = (28, 28, 1)  # of one example
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
    return tuple(pair and (pair[0] / np.float32(255), pair[1]) for pair in (learn, validate, test))


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


NUMBERS = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by the third byte of a file


def load():
    folder = mlaas.data(DATA)
    learn = pair(folder, ("train",))
    if learn is None:
        raise ValueError("%s has no files such as train-images-idx3-ubyte and train-labels-idx1-ubyte" % folder)
    return learn, pair(folder, ("t10k", "test"))


def pair(folder, beginnings):
    x, y = idx(folder, beginnings, "images"), idx(folder, beginnings, "labels")
    return None if x is None or y is None else examples(x, y, "%s/%s*" % (folder, beginnings[0]))


def idx(folder, beginnings, what):
    """The array in the IDX file of this name, or None. Such a file says of what
    kind its numbers are and how long each dimension is, and then has them all."""
    for name in sorted(os.listdir(folder)):
        if not name.startswith(beginnings) or what not in name:
            continue
        path = os.path.join(folder, name)
        with (gzip.open if name.endswith(".gz") else open)(path, "rb") as f:
            head = f.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in NUMBERS:
                raise ValueError("%s is no IDX file" % path)
            shape = struct.unpack(">%dI" % head[3], f.read(4 * head[3]))
            found = np.frombuffer(f.read(), NUMBERS[head[2]])
        if len(found) != np.prod(shape, dtype=int):
            raise ValueError("%s has %d numbers, want %s: it is cut off" % (path, len(found), shape))
        return found.reshape(shape)
    return None
