"""Runs the programs that package compose writes, in one process for a backend:
importing a framework takes longer than training these.

    python run_composed.py keras|tf1|pytorch FOLDER [NET...]

Prints what each program printed, as JSON: {"iris": "...", ...}.
"""
import contextlib
import csv
import io
import json
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
NETS = os.path.join(HERE, "..", "..", "compose", "testdata")
sys.path.insert(0, os.path.dirname(HERE))


def patterns(count, size, classes, seed):
    """Images of which each class has a bright square in a place of its own."""
    order = np.random.RandomState(seed)
    y = order.randint(0, classes, count).astype(np.uint8)
    x = order.randint(0, 80, (count, size, size)).astype(np.uint8)
    side = size // 4
    for image, label in zip(x, y):
        row, column = divmod(int(label), 4)
        image[row * side:(row + 1) * side, column * side:(column + 1) * side] += 150
    return x, y


def idx(path, array):
    with open(path, "wb") as f:
        f.write(struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(">%dI" % array.ndim, *array.shape) + array.tobytes())


def write_paper(folder):
    for name, count, seed in (("train", 2000, 1), ("t10k", 300, 2)):
        x, y = patterns(count, 28, 10, seed)
        idx(os.path.join(folder, name + "-images-idx3-ubyte"), x)
        idx(os.path.join(folder, name + "-labels-idx1-ubyte"), y)


write_convolution = write_paper


def write_rates(folder):
    """Stripes: how far apart they are is the class, wherever they begin."""
    arrays = {}
    for name, count, seed in (("train", 1000, 1), ("test", 200, 2)):
        order = np.random.RandomState(seed)
        y = order.randint(0, 10, count)
        x = order.rand(count, 8, 8) * 0.1
        for image, label in zip(x, y):
            image[:, order.randint(0, 2):: 2 + label // 5] += 0.2 + 0.2 * (label % 5)
        arrays.update({"x_" + name: x, "y_" + name: y})
    np.savez(os.path.join(folder, "digits.npz"), **arrays)


def write_words(folder):
    """Rows of words; those with a word below 10 are of class 1."""
    order = np.random.RandomState(1)
    x = order.randint(10, 100, (1000, 20))
    y = order.randint(0, 2, 1000)
    for row in x[y == 1]:
        row[0] = 0
    x[y == 1, order.randint(0, 20)] = 5
    np.savez(os.path.join(folder, "words.npz"), x=x, y=y)


def write_iris(folder):
    order = np.random.RandomState(1)
    with open(os.path.join(folder, "iris.csv"), "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["width", "species", "length", "comment"])
        for _ in range(300):
            kind = order.randint(0, 3)
            w.writerow(["%.3f" % (1 + 2 * kind + order.randn() * 0.2), "abc"[kind], "%.3f" % (5 - kind + order.randn() * 0.2), "a, b"])


def write_price(folder):
    import pyarrow
    import pyarrow.parquet

    for name, count, seed in (("houses", 500, 1), ("new", 100, 2)):
        x = np.random.RandomState(seed).rand(count, 3) * [100, 1, 5]
        table = {"area": x[:, 0], "age": x[:, 1], "price": x[:, 0] / 50 + x[:, 2], "rooms": x[:, 2]}
        pyarrow.parquet.write_table(pyarrow.table(table), os.path.join(folder, name + ".parquet"))


def write_pictures(folder):
    from PIL import Image

    order = np.random.RandomState(1)
    for part, count in (("train", 40), ("test", 10)):
        for kind, colour in (("blue", 2), ("red", 0)):
            os.makedirs(os.path.join(folder, part, kind))
            for i in range(count):
                image = order.randint(0, 120, (20, 24, 3)).astype(np.uint8)
                image[..., colour] += 100
                Image.fromarray(image).save(os.path.join(folder, part, kind, "%d.png" % i))


def main():
    backend, base = sys.argv[1:3]
    nets = sys.argv[3:] or ["paper", "convolution", "rates", "words", "iris", "price", "pictures"]
    del sys.argv[1:]  # they are no parameters of the programs
    found = {}
    for net in nets:
        folder = os.path.join(base, net)
        if not os.path.isdir(folder):
            os.makedirs(os.path.join(folder, "data", "digits"))
            globals()["write_" + net](os.path.join(folder, "data", "digits"))
        os.chdir(folder)
        os.environ["MLAAS_OUTPUT"] = os.path.join(folder, "output")
        found[net] = run(os.path.join(NETS, net, backend))
    json.dump(found, sys.stdout)


def run(program):
    """What a program prints, run as python main.py would run it."""
    said = io.StringIO()
    sys.path.insert(0, program)
    try:
        for module in ("main", "data"):
            sys.modules.pop(module, None)
        with contextlib.redirect_stdout(said):
            import main as written

            with written.tf.Graph().as_default() if hasattr(written, "tf1") else contextlib.nullcontext():
                written.main()
    finally:
        sys.path.remove(program)
    return said.getvalue()


if __name__ == "__main__":
    main()
