"""MNIST in guiding mode, in PyTorch: 784-500-10."""
import os
import struct

import numpy as np
import torch

import mlaas

STEPS = 2000
BATCH = 50


def read(name, magic):
    """The images (N, 784) from 0 to 1, or the labels (N,), of one file of MNIST."""
    with open(os.path.join(mlaas.data("mnist"), name), "rb") as f:
        found, count = struct.unpack(">II", f.read(8))
        if found != magic:
            raise ValueError("%s begins with %d, want %d: it is not the MNIST file" % (name, found, magic))
        if magic == 2049:
            return np.frombuffer(f.read(), np.uint8).astype(np.int32)
        f.read(8)
        return np.frombuffer(f.read(), np.uint8).reshape(count, 784) / np.float32(255)


def mnist(which):
    return read(which + "-images-idx3-ubyte", 2051), read(which + "-labels-idx1-ubyte", 2049)


def tensors(which):
    x, y = mnist(which)
    return torch.from_numpy(x), torch.from_numpy(y).long()


def define_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(784, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10))


def setup_train(model):
    return {"step": 0, "optimizer": torch.optim.Adam(model.parameters(), lr=0.001), "data": tensors("train")}


def step_train(model, env):
    if env["step"] == STEPS:
        return False
    env["step"] += 1
    x, y = env["data"]
    some = torch.randint(0, len(x), (BATCH,))
    loss = torch.nn.functional.cross_entropy(model(x[some]), y[some])
    env["optimizer"].zero_grad()
    loss.backward()
    env["optimizer"].step()
    return {"loss": loss}


def evaluate(model, env):
    x, y = tensors("t10k")
    with torch.no_grad():
        return {"test_accuracy": (model(x).argmax(1) == y).float().mean().item()}
