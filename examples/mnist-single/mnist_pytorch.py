"""MNIST in PyTorch, on one machine: 784-500-10, about a minute on a CPU."""
import argparse
import os

import torch

import mlaas
import mnist

p = argparse.ArgumentParser()
p.add_argument("--data", help="folder of the four IDX files; default: the job's data named mnist")
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--batch", type=int, default=50)
p.add_argument("--lr", type=float, default=0.1)
a = p.parse_args()

(images, labels), (test_images, test_labels) = mnist.read(a.data or mlaas.data("mnist"))
device = "cuda" if torch.cuda.is_available() else "cpu"
# A copy: what was read from the files may not be written to.
images, labels = torch.tensor(images).to(device), torch.tensor(labels).long().to(device)
test_images, test_labels = torch.tensor(test_images).to(device), torch.tensor(test_labels).long().to(device)

model = torch.nn.Sequential(torch.nn.Linear(784, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=a.lr)
measure = torch.nn.CrossEntropyLoss()

done, found = 0, mlaas.resume()
if found:
    state = torch.load(os.path.join(found.path, "state.pt"), map_location=device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    done = state["epoch"]
    print("going on after epoch %d" % done)
mlaas.track(model)
mlaas.track(optimizer)  # from here on, each backward() records its loss


def accuracy():
    with torch.no_grad():
        right = sum((model(x.float() / 255).argmax(1) == y).sum().item()
                    for x, y in zip(test_images.split(1000), test_labels.split(1000)))
    return right / len(test_labels)


steps = len(images) // a.batch
for epoch in range(done, a.epochs):
    order = torch.randperm(len(images), device=device)
    for i in range(steps):
        some = order[i * a.batch:(i + 1) * a.batch]
        loss = measure(model(images[some].float() / 255), labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    step = (epoch + 1) * steps
    score = accuracy()
    mlaas.log({"test_accuracy": score, "epoch": epoch + 1}, step=step)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, "state.pt")
    mlaas.checkpoint("state.pt", step=step)
    print("epoch %d of %d: loss %.3f, test accuracy %.4f" % (epoch + 1, a.epochs, loss.item(), score), flush=True)
torch.save(model.state_dict(), os.path.join(mlaas.output, "model.pt"))
print("test accuracy %.4f" % accuracy())
