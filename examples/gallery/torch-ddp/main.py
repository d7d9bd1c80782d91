"""MNIST in PyTorch, distributed: DistributedDataParallel: two processes of one replica, or one of each.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import numpy as np
import torch
import torch.distributed as dist

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")


def train(rank, size, meet):
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    x, y = torch.tensor(images[rank::size]), torch.tensor(labels[rank::size])
    for epoch in range(1, 3):
        for some in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(50):
            loss = torch.nn.functional.cross_entropy(parallel(x[some]), y[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            with torch.no_grad():
                right = (model(torch.tensor(test_images)).argmax(1) == torch.tensor(test_labels)).float().mean().item()
            print("epoch %d: test accuracy %.4f" % (epoch, right), flush=True)
        dist.barrier()
    if rank == 0:
        print("last loss %.4f" % loss.item())
        print("parameters %d" % sum(p.numel() for p in model.parameters()), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "env://")
    else:
        torch.multiprocessing.spawn(train, (2, "file://" + os.path.abspath("meet-%d" % os.getpid())), nprocs=2)
