"""Reads what the network learns from: a table as comma-separated values.

Written by mlaas from code.composed.input.
"""
import csv
import glob
import json
import os

import numpy as np

import mlaas

DATA = "digits"  # of the job's data
SHAPE = (2,)  # of one example
COLUMNS = [  # that are learned from
    "width",
    "length",
]
TARGET = "species"  # the column that is predicted
FILE = ""  # in the data; "" is the only one there
TEST_FILE = ""  # to test by; "" is none
CLASSES = 3


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
    y = np.asarray(y).astype(np.int64).reshape(len(y))
    if not 0 <= y.min() <= y.max() < CLASSES:
        raise ValueError("the targets in %s go from %d to %d, and the output tells %d classes apart, 0 to %d" % (where, y.min(), y.max(), CLASSES, CLASSES - 1))
    return x, y


def load():
    path = where(FILE)
    columns = table(path)
    if TARGET not in columns:
        raise ValueError("%s has no column %r, which is the target; it has: %s" % (path, TARGET, ", ".join(map(str, columns))))
    labels = classes(columns[TARGET])
    if len(labels) != CLASSES:
        raise ValueError("column %r of %s has %d different values, and the output tells %d classes apart" % (TARGET, path, len(labels), CLASSES))
    with open(os.path.join(mlaas.output, "classes.json"), "w", encoding="utf-8") as f:
        json.dump([str(v) for v in labels], f)
    names = COLUMNS or [n for n in columns if n != TARGET]
    learn = pair(columns, names, labels, path)
    return learn, pair(table(where(TEST_FILE)), names, labels, where(TEST_FILE)) if TEST_FILE else None


def where(name):
    place = mlaas.data(DATA)
    if name:
        return os.path.join(place, name)
    if not os.path.isdir(place):
        return place
    found = [p for p in sorted(glob.glob(os.path.join(glob.escape(place), "*.csv"))) if os.path.basename(p) != TEST_FILE]
    if len(found) != 1:
        raise ValueError("%s has %d files .csv, want one: name it as input.file" % (place, len(found)))
    return found[0]


def table(path):
    """The columns of a CSV file, by the names in its first line."""
    with open(path, newline="", encoding="utf-8-sig") as f:
        lines = csv.reader(f)
        names = next(lines, [])
        columns = {n: [] for n in names}
        for row in lines:
            if row and len(row) != len(names):
                raise ValueError("%s, line %d: %d values, want %d as in the first line" % (path, lines.line_num, len(row), len(names)))
            for n, v in zip(names, row):
                columns[n].append(v.strip())
    return columns


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


def classes(values):
    """The different values, in the order of numbers if all are, else of texts."""
    found = set(values)
    try:
        return sorted(found, key=float)
    except (TypeError, ValueError):
        return sorted(found, key=str)
