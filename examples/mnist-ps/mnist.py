"""Read MNIST as its authors published it: four files in IDX format."""
import os
import struct

import numpy as np


def read(folder):
    """Images as uint8 of shape (N, 784) and labels as uint8 of shape (N,).

    Returns: (train images, train labels), (test images, test labels).
    Raises: ValueError if a file is not what its name says.
    """
    return (
        (_idx(folder, "train-images-idx3-ubyte", 2051), _idx(folder, "train-labels-idx1-ubyte", 2049)),
        (_idx(folder, "t10k-images-idx3-ubyte", 2051), _idx(folder, "t10k-labels-idx1-ubyte", 2049)),
    )


def _idx(folder, name, magic):
    path = os.path.join(folder, name)
    with open(path, "rb") as f:
        found, count = struct.unpack(">II", f.read(8))
        if found != magic:
            raise ValueError("%s begins with %d, want %d: it is not the MNIST file" % (path, found, magic))
        width = 1
        if magic == 2051:
            rows, columns = struct.unpack(">II", f.read(8))
            width = rows * columns
        data = np.frombuffer(f.read(), np.uint8)
    if len(data) != count * width:
        raise ValueError("%s has %d bytes of data, want %d: it is cut off" % (path, len(data), count * width))
    return data.reshape(count, width) if width > 1 else data


def batches(images, labels, size, seed):
    """Random batches without end: pixels from 0 to 1 as float32, labels as int64."""
    order = np.random.RandomState(seed)
    while True:
        shuffled = order.permutation(len(images))
        for start in range(0, len(images) - size + 1, size):
            some = shuffled[start:start + size]
            yield images[some].astype(np.float32) / 255.0, labels[some].astype(np.int64)
