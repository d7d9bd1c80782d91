"""A network that was composed, 8x8x1-8x8x8-8-32-10, 730 parameters, in PyTorch.

Written by mlaas from code.composed, and from then on a program like any other:
it may be changed and run by hand, python main.py, where the package mlaas is
installed and ./data/ has the data.
"""
import os
from collections import OrderedDict

import torch

import data
import mlaas

# A parameter of the run goes before what is said here: --param epochs=3.
EPOCHS = int(mlaas.params.get("epochs", 8))
BATCH_SIZE = int(mlaas.params.get("batch_size", 32))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.005))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.1  # part of the examples that is not learned from
RATES = {  # learning rates of layers that have their own
    "layer1": 0.002,
    "layer3": 0.003,
    "output": 0.01,
}

device = "cuda" if torch.cuda.is_available() else "cpu"


class ChannelsFirst(torch.nn.Module):
    """From (examples, height, width, channels) to the order that PyTorch has."""

    def forward(self, x):
        return x.movedim(-1, 1)


def network():
    """8x8x1-8x8x8-8-32-10, 730 parameters."""
    return torch.nn.Sequential(OrderedDict([
        ("channels_first", ChannelsFirst()),
        ("layer1", torch.nn.Conv2d(1, 8, 3, padding="same")),
        ("layer1_relu", torch.nn.ReLU()),  # (8, 8, 8), 80 parameters
        ("layer2", torch.nn.AdaptiveMaxPool2d(1)),
        ("layer2_flat", torch.nn.Flatten()),  # (8,)
        ("layer3", torch.nn.BatchNorm1d(8, eps=1e-3)),  # (8,), 32 parameters
        ("layer4", torch.nn.Linear(8, 32)),
        ("layer4_tanh", torch.nn.Tanh()),  # (32,), 288 parameters
        ("output", torch.nn.Linear(32, 10)),  # (10,), 330 parameters
    ]))


measure = torch.nn.CrossEntropyLoss()  # the softmax is in it


def examples(pair):
    return torch.utils.data.TensorDataset(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))


def evaluate(model, pair):
    """The mean loss and accuracy over all examples of pair."""
    model.eval()
    loss, score, count = 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in torch.utils.data.DataLoader(examples(pair), batch_size=1000):
            x, y = x.to(device), y.to(device)
            found = model(x)
            loss += measure(found, y).item() * len(x)
            score += (found.argmax(1) == y).sum().item()
            count += len(x)
    model.train()
    return loss / count, score / count


def main():
    torch.manual_seed(SEED)
    learn, validate, test = data.read(SEED, VALIDATION_SPLIT)
    model = network().to(device)
    groups = [{"params": list(layer.parameters()), "lr": RATES.get(name, LEARNING_RATE)}
              for name, layer in model.named_children() if list(layer.parameters())]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
    done, step, found = 0, 0, mlaas.resume()
    if found:
        state = torch.load(os.path.join(found.path, "state.pt"), map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, step = state["epoch"], state["step"]
        print("going on after epoch %d" % done)
    batches = torch.utils.data.DataLoader(examples(learn), batch_size=BATCH_SIZE, shuffle=True,
                                          drop_last=len(learn[0]) > BATCH_SIZE)
    for epoch in range(done, EPOCHS):
        for x, y in batches:
            loss = measure(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            mlaas.log({"loss": loss}, step=step)
        said = {"epoch": epoch + 1}
        if validate is not None:
            said["val_loss"], said["val_accuracy"] = evaluate(model, validate)
        mlaas.log(said, step=step)
        print("epoch %d of %d: loss %.4f %s" % (epoch + 1, EPOCHS, loss.item(), said), flush=True)
        if mlaas.is_chief:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "epoch": epoch + 1, "step": step}, "state.pt")
            mlaas.checkpoint("state.pt", step=step)
    for name, pair in (("validation", validate), ("test", test)):
        if pair is not None:
            loss, accuracy = evaluate(model, pair)
            mlaas.log({name + "_loss": loss, name + "_accuracy": accuracy}, step=step)
            print("%s accuracy %.4f" % (name, accuracy), flush=True)
    torch.save(model.state_dict(), os.path.join(mlaas.output, "model.pt"))


if __name__ == "__main__":
    main()
