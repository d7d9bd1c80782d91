"""Reads what the network learns from: a folder of images for each class.

Written by mlaas from code.composed.input.
"""
import json
import os

import numpy as np
from PIL import Image

import mlaas

DATA = "digits"  # of the job's data
SHAPE = (16, 16, 3)  # of one example
CLASSES = 2


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


def load():
    folder = mlaas.data(DATA)
    inside = os.path.join(folder, "train")
    learn = inside if os.path.isdir(inside) else folder
    names = classes(learn)
    if len(names) != CLASSES:
        raise ValueError("%s has %d folders of images, and the output tells %d classes apart" % (learn, len(names), CLASSES))
    with open(os.path.join(mlaas.output, "classes.json"), "w", encoding="utf-8") as f:
        json.dump(names, f)
    test = os.path.join(folder, "test")
    return images(learn, names), images(test, names) if os.path.isdir(test) else None


def classes(folder):
    """The folders in folder, each of which holds the images of a class."""
    return sorted(n for n in os.listdir(folder) if os.path.isdir(os.path.join(folder, n)) and n != "test")


def images(folder, names):
    """All images of all classes, brought to one size."""
    x, y = [], []
    for label, name in enumerate(names):
        inside = os.path.join(folder, name)
        for file in sorted(os.listdir(inside)) if os.path.isdir(inside) else ():
            if file.lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")):
                with Image.open(os.path.join(inside, file)) as image:
                    x.append(np.asarray(image.convert("RGB").resize((SHAPE[1], SHAPE[0])), np.uint8).reshape(SHAPE))
                y.append(label)
    return examples(np.array(x, np.uint8).reshape((len(x),) + SHAPE), y, folder)
