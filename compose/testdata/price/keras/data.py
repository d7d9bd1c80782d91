"""Reads what the network learns from: a table in a Parquet file.

Written by mlaas from code.composed.input.
"""
import glob
import json
import os

import numpy as np
import pyarrow.parquet

import mlaas

DATA = "digits"  # of the job's data
SHAPE = (3,)  # of one example
COLUMNS = None  # that are learned from: all but the target
TARGET = "price"  # the column that is predicted
FILE = "houses.parquet"  # in the data; "" is the only one there
TEST_FILE = "new.parquet"  # to test by; "" is none


def read(seed, split):
    """Examples to learn from, to validate by and to test by.

    Returns: three pairs (inputs, targets), or None where there are none:
        inputs of shape (N,) + SHAPE, float32; targets of shape (N, 1), float32.
    Raises: ValueError, saying what in the data is not as the job has it.
    """
    learn, test = load()
    order = np.random.RandomState(seed).permutation(len(learn[0]))
    held = int(len(order) * split)
    validate = (learn[0][order[:held]], learn[1][order[:held]]) if held else None
    learn = (learn[0][order[held:]], learn[1][order[held:]])
    # Each number with mean 0 and deviation 1, over what is learned from; kept
    # beside the model, which wants its inputs so.
    mean, deviation = learn[0].mean(0), learn[0].std(0)
    deviation[deviation == 0] = 1
    np.savez(os.path.join(mlaas.output, "scale.npz"), mean=mean, deviation=deviation)
    return tuple(pair and ((pair[0] - mean) / deviation, pair[1]) for pair in (learn, validate, test))


def examples(x, y, where):
    """Inputs and targets as the network takes them."""
    if len(x) != len(y) or not len(x):
        raise ValueError("%s has %d inputs and %d targets, want as many of one as of the other, at least 1" % (where, len(x), len(y)))
    if np.prod(x.shape[1:], dtype=int) != np.prod(SHAPE, dtype=int):
        raise ValueError("the inputs in %s have the shape %s, and input.shape is %s" % (where, x.shape[1:], SHAPE))
    x = np.ascontiguousarray(x, np.float32).reshape((len(x),) + SHAPE)
    return x, np.asarray(y).astype(np.float32).reshape(len(y), 1)


def load():
    path = where(FILE)
    columns = table(path)
    if TARGET not in columns:
        raise ValueError("%s has no column %r, which is the target; it has: %s" % (path, TARGET, ", ".join(map(str, columns))))
    labels = None
    names = COLUMNS or [n for n in columns if n != TARGET]
    learn = pair(columns, names, labels, path)
    return learn, pair(table(where(TEST_FILE)), names, labels, where(TEST_FILE)) if TEST_FILE else None


def where(name):
    place = mlaas.data(DATA)
    if name:
        return os.path.join(place, name)
    if not os.path.isdir(place):
        return place
    found = [p for p in sorted(glob.glob(os.path.join(glob.escape(place), "*.parquet"))) if os.path.basename(p) != TEST_FILE]
    if len(found) != 1:
        raise ValueError("%s has %d files .parquet, want one: name it as input.file" % (place, len(found)))
    return found[0]


def table(path):
    """The columns of a Parquet file, by their names."""
    return pyarrow.parquet.read_table(path).to_pydict()


def pair(columns, names, labels, path):
    for n in names + [TARGET]:
        if n not in columns:
            raise ValueError("%s has no column %r; it has: %s" % (path, n, ", ".join(map(str, columns))))
    x = np.stack([numbers(columns[n], n, path) for n in names], 1)
    if labels is None:
        return examples(x, numbers(columns[TARGET], TARGET, path), path)
    index = {v: i for i, v in enumerate(labels)}
    for i, v in enumerate(columns[TARGET]):
        if v not in index:
            raise ValueError("%s, row %d: %r is no class that is learned: %s" % (path, i + 1, v, labels))
    return examples(x, [index[v] for v in columns[TARGET]], path)


def numbers(values, name, path):
    out = np.empty(len(values), np.float64)
    for i, v in enumerate(values):
        try:
            out[i] = float(v)
        except (TypeError, ValueError):
            raise ValueError("%s, row %d: column %r is %r, want a number" % (path, i + 1, name, v)) from None
    return out
