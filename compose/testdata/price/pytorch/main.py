"""A network that was composed, 3-32-16-1, 673 parameters, in PyTorch.

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
EPOCHS = int(mlaas.params.get("epochs", 40))
BATCH_SIZE = int(mlaas.params.get("batch_size", 32))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.01))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.1  # part of the examples that is not learned from

device = "cuda" if torch.cuda.is_available() else "cpu"

def network():
    """3-32-16-1, 673 parameters."""
    return torch.nn.Sequential(OrderedDict([
        ("layer1", torch.nn.Linear(3, 32)),
        ("layer1_relu", torch.nn.ReLU()),  # (32,), 128 parameters
        ("layer2", torch.nn.Linear(32, 16)),
        ("layer2_softplus", torch.nn.Softplus()),  # (16,), 528 parameters
        ("output", torch.nn.Linear(16, 1)),  # (1,), 17 parameters
    ]))


measure = torch.nn.L1Loss()


def examples(pair):
    return torch.utils.data.TensorDataset(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))


def evaluate(model, pair):
    """The mean loss and mae over all examples of pair."""
    model.eval()
    loss, score, count = 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in torch.utils.data.DataLoader(examples(pair), batch_size=1000):
            x, y = x.to(device), y.to(device)
            found = model(x)
            loss += measure(found, y).item() * len(x)
            score += (found - y).abs().mean(1).sum().item()
            count += len(x)
    model.train()
    return loss / count, score / count


def main():
    torch.manual_seed(SEED)
    learn, validate, test = data.read(SEED, VALIDATION_SPLIT)
    model = network().to(device)
    groups = model.parameters()
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)
    done, step, found = 0, 0, mlaas.resume()
    if found:
        state = torch.load(os.path.join(found.path, "state.pt"), map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, step = state["epoch"], state["step"]
        print("going on after epoch %d" % done)
    batches = torch.utils.data.DataLoader(examples(learn), batch_size=BATCH_SIZE, shuffle=True)
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
            said["val_loss"], said["val_mae"] = evaluate(model, validate)
        mlaas.log(said, step=step)
        print("epoch %d of %d: loss %.4f %s" % (epoch + 1, EPOCHS, loss.item(), said), flush=True)
        if mlaas.is_chief:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "epoch": epoch + 1, "step": step}, "state.pt")
            mlaas.checkpoint("state.pt", step=step)
    for name, pair in (("validation", validate), ("test", test)):
        if pair is not None:
            loss, mae = evaluate(model, pair)
            mlaas.log({name + "_loss": loss, name + "_mae": mae}, step=step)
            print("%s mae %.4f" % (name, mae), flush=True)
    torch.save(model.state_dict(), os.path.join(mlaas.output, "model.pt"))


if __name__ == "__main__":
    main()
