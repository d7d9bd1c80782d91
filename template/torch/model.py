"""Tells points inside a circle from points outside it. Put your own model,
data and training here: main.py calls these functions.

    define_model()            -> model      a module, or a dict of several
    setup_train(model)        -> env        the optimizer, the data
    step_train(model, env)    -> go on?     one step: a dict of what was measured, or True; False at the end
    evaluate(model, env)      -> numbers    at the end; may be left away
    save(model, env, folder)                instead of model.pt; may be left away
"""
import torch

STEPS = 1000
BATCH = 64


def points(count, seed):
    x = torch.rand((count, 2), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return x, (x.square().sum(1) < 0.6).long()


def define_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))


def setup_train(model):
    return {"step": 0, "optimizer": torch.optim.Adam(model.parameters(), lr=0.01), "data": points(10000, seed=1)}


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
    x, y = points(2000, seed=2)
    with torch.no_grad():
        return {"test_accuracy": (model(x).argmax(1) == y).float().mean().item()}
