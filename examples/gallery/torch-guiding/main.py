"""Trains with the functions of model.py: PyTorch.

    python main.py [--steps 1000] [--checkpoint_steps 100]

On the platform this file is the platform's own: change model.py.
"""
import os

import torch

from workflow import Workflow, members


def main():
    work = Workflow()
    model = work.define_model()
    env = work.setup_train(model)
    if work.found:
        load(model, env, work.restore(env))
    going = True
    while going:
        going = work.step_train(model, env)
        if work.due() or not going:
            with work.checkpoint(env) as folder:
                torch.save(states(model, env), os.path.join(folder, "state.pt"))
    work.evaluate(model, env)
    work.save(model, env, lambda folder: torch.save(
        {name: p.state_dict() for name, p in parts(model, env).items() if name.startswith("model")}, os.path.join(folder, "model.pt")))


def parts(model, env):
    """All that has a state, by name: modules, optimizers, schedulers. model may
    be one module, or a dict or an object that has several."""
    found = {"model": model} if isinstance(model, torch.nn.Module) else {"model." + k: v for k, v in members(model).items()}
    found.update({"env." + k: v for k, v in members(env).items()})
    return {k: v for k, v in found.items() if hasattr(v, "state_dict") and hasattr(v, "load_state_dict")}


def states(model, env):
    return {name: p.state_dict() for name, p in parts(model, env).items()}


def load(model, env, folder):
    device = next((p.device for m in parts(model, env).values() if isinstance(m, torch.nn.Module) for p in m.parameters()), "cpu")
    found = torch.load(os.path.join(folder, "state.pt"), map_location=device)
    for name, p in parts(model, env).items():
        if name in found:
            p.load_state_dict(found[name])


if __name__ == "__main__":
    main()
