"""MNIST in PyTorch: a loop in PyTorch with a schedule.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import argparse
import os

import numpy as np
import torch

p = argparse.ArgumentParser()
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--batch", type=int, default=100)
p.add_argument("--lr", type=float, default=0.1)
a = p.parse_args()

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

images, labels, test_images, test_labels = map(torch.tensor, (images, labels, test_images, test_labels))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(784, 100), torch.nn.Linear(100, 10)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=a.lr, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
for epoch in range(1, a.epochs + 1):
    for some in torch.randperm(len(images)).split(a.batch):
        loss = torch.nn.functional.cross_entropy(model(images[some]), labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
    with torch.no_grad():
        right = (model(test_images).argmax(1) == test_labels).float().mean().item()
    print("epoch %d: test accuracy %.4f" % (epoch, right), flush=True)
torch.save(model.state_dict(), "model.pt")
print("last loss %.4f" % loss.item())
print("parameters %d" % sum(p.numel() for p in model.parameters()))
