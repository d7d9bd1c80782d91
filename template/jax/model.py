"""Tells points inside a circle from points outside it. Put your own model,
data and training here: main.py calls these functions.

    define_model()            -> model      a dict with the parameters in it
    setup_train(model)        -> env        the data, the state of an optimizer
    step_train(model, env)    -> go on?     one step: a dict of what was measured, or True; False at the end
    evaluate(model, env)      -> numbers    at the end; may be left away
    save(model, env, folder)                instead of model.npz; may be left away
"""
import jax
import jax.numpy as jnp
import numpy as np

STEPS = 1000
BATCH = 64
RATE = 0.5


def points(count, seed):
    x = np.random.RandomState(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, (x[:, 0] ** 2 + x[:, 1] ** 2 < 0.6).astype(np.int32)


def define_model():
    a, b = jax.random.split(jax.random.PRNGKey(1))
    return {"params": {
        "w1": jax.random.normal(a, (2, 32)), "b1": jnp.zeros(32),
        "w2": jax.random.normal(b, (32, 2)) * 0.2, "b2": jnp.zeros(2),
    }}


def apply(params, x):
    h = jax.nn.relu(x @ params["w1"] + params["b1"])
    return h @ params["w2"] + params["b2"]


def measure(params, x, y):
    return -jnp.mean(jax.nn.log_softmax(apply(params, x))[jnp.arange(len(y)), y])


@jax.jit
def learn(params, x, y):
    loss, gradients = jax.value_and_grad(measure)(params, x, y)
    return jax.tree_util.tree_map(lambda p, g: p - RATE * g, params, gradients), loss


def setup_train(model):
    return {"step": 0, "data": points(10000, seed=1), "order": np.random.RandomState(1)}


def step_train(model, env):
    if env["step"] == STEPS:
        return False
    env["step"] += 1
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    model["params"], loss = learn(model["params"], x[some], y[some])
    return {"loss": loss}


def evaluate(model, env):
    x, y = points(2000, seed=2)
    return {"test_accuracy": float(jnp.mean(apply(model["params"], x).argmax(1) == y))}
