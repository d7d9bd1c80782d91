"""Tells points inside a circle from points outside it. Put your own model,
data and training here: main.py calls these functions.

    define_model()            -> model      a Keras model, or a dict of several
    setup_train(model)        -> env        the optimizer, the data
    step_train(model, env)    -> go on?     one step: a dict of what was measured, or True; False at the end
    evaluate(model, env)      -> numbers    at the end; may be left away
    save(model, env, folder)                instead of model.keras; may be left away
"""
import keras
import numpy as np

STEPS = 1000
BATCH = 64


def points(count, seed):
    x = np.random.RandomState(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, (x[:, 0] ** 2 + x[:, 1] ** 2 < 0.6).astype(np.int64)


def define_model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((2,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(2),
    ])


def setup_train(model):
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return {"step": 0, "data": points(10000, seed=1), "order": np.random.RandomState(1)}


def step_train(model, env):
    if env["step"] == STEPS:
        return False
    env["step"] += 1
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    loss, _ = model.train_on_batch(x[some], y[some])
    return {"loss": loss}


def evaluate(model, env):
    loss, accuracy = model.evaluate(*points(2000, seed=2), verbose=0)
    return {"test_loss": loss, "test_accuracy": accuracy}
