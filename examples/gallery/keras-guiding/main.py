"""Trains with the functions of model.py: Keras 3.

    python main.py [--steps 1000] [--checkpoint_steps 100]

On the platform this file is the platform's own: change model.py.
"""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import keras
import numpy as np

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
                keep(model, env, folder)
    work.evaluate(model, env)
    work.save(model, env, lambda folder: [m.save(os.path.join(folder, name + ".keras")) for name, m in models(model).items()])


def models(model):
    """The Keras models, by name: model may be one, or a dict or an object that has several."""
    if isinstance(model, keras.Model):
        return {"model": model}
    return {name: m for name, m in members(model).items() if isinstance(m, keras.Model)}


def optimizers(model, env):
    """Those that models were compiled with, and those in env; by name."""
    found = {name: m.optimizer for name, m in models(model).items() if getattr(m, "optimizer", None) is not None}
    found.update({"env." + name: o for name, o in members(env).items() if isinstance(o, keras.optimizers.Optimizer)})
    return found


def keep(model, env, folder):
    for name, m in models(model).items():
        m.save_weights(os.path.join(folder, name + ".weights.h5"))
    for name, o in optimizers(model, env).items():
        values = [keras.ops.convert_to_numpy(v) for v in o.variables]
        np.savez(os.path.join(folder, name + ".optimizer.npz"), *values)


def load(model, env, folder):
    for name, m in models(model).items():
        m.load_weights(os.path.join(folder, name + ".weights.h5"))
    learned = [v for m in models(model).values() for v in m.trainable_variables]
    for name, o in optimizers(model, env).items():
        if not o.built:
            o.build(models(model)[name].trainable_variables if name in models(model) else learned)
        with np.load(os.path.join(folder, name + ".optimizer.npz")) as values:
            for v, key in zip(o.variables, values):
                v.assign(values[key])


if __name__ == "__main__":
    main()
