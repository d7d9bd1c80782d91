"""Trains with the functions of model.py: JAX.

    python main.py [--steps 1000] [--checkpoint_steps 100]

On the platform this file is the platform's own: change model.py.
"""
import os

import jax
import numpy as np

from workflow import Workflow, fail, members, put


def main():
    work = Workflow()
    model = work.define_model()
    if not members(model):
        fail(work.line("define_model"), "define_model returned a %s, want a dict or an object with the parameters in it: "
             "arrays do not change, so step_train puts new ones there" % type(model).__name__)
    env = work.setup_train(model)
    if work.found:
        folder = work.restore(env)
        load(model, os.path.join(folder, "model.npz"))
        load(env, os.path.join(folder, "env.npz"))
    going = True
    while going:
        going = work.step_train(model, env)
        if work.due() or not going:
            with work.checkpoint(env) as folder:
                keep(model, os.path.join(folder, "model.npz"))
                keep(env, os.path.join(folder, "env.npz"))
    work.evaluate(model, env)
    work.save(model, env, lambda folder: keep(model, os.path.join(folder, "model.npz")))


def trees(place):
    """What place has that is made of arrays and numbers alone, by name."""
    found = {}
    for name, v in members(place).items():
        leaves = jax.tree_util.tree_leaves(v)
        if leaves and all(isinstance(leaf, (jax.Array, np.ndarray, np.number, int, float)) for leaf in leaves):
            found[name] = v
    return found


def keep(place, path):
    arrays = {}
    for name, v in trees(place).items():
        for i, leaf in enumerate(jax.tree_util.tree_leaves(v)):
            arrays["%s/%d" % (name, i)] = np.asarray(leaf)
    np.savez(path, **arrays)


def load(place, path):
    with np.load(path) as arrays:
        for name, v in trees(place).items():
            leaves, shape = jax.tree_util.tree_flatten(v)
            if "%s/%d" % (name, len(leaves) - 1) not in arrays or isinstance(v, (int, float)):
                continue  # new since then; a plain number is the workflow's to restore
            found = [arrays["%s/%d" % (name, i)] for i in range(len(leaves))]
            put(place, name, jax.tree_util.tree_unflatten(shape, [
                jax.numpy.asarray(f) if isinstance(leaf, jax.Array) else f for leaf, f in zip(leaves, found)]))


if __name__ == "__main__":
    main()
