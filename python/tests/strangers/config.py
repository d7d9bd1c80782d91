"""Hydra with a structured configuration, optax, figures saved and shown."""
from dataclasses import dataclass, field

import hydra
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from hydra.core.config_store import ConfigStore


@dataclass
class Opt:
    name: str = "adam"
    lr: float = 0.01


@dataclass
class Config:
    epochs: int = 4
    opt: Opt = field(default_factory=Opt)


ConfigStore.instance().store(name="config", node=Config)


@hydra.main(version_base=None, config_path=None, config_name="config")
def main(cfg):
    tx = optax.adam(cfg.opt.lr)
    params = {"w": jnp.zeros(3), "b": jnp.array(0.0)}
    state = tx.init(params)

    def measure(params, x, y):
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    @jax.jit
    def step(params, state, x, y):
        loss, gradients = jax.value_and_grad(measure)(params, x, y)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    key, history = jax.random.PRNGKey(0), []
    for epoch in range(cfg.epochs):
        for i in range(20):
            key, mine = jax.random.split(key)
            x = jax.random.normal(mine, (8, 3))
            params, state, loss = step(params, state, x, x.sum(1))
        history.append(float(loss))
        print(f"Epoch {epoch + 1}/{cfg.epochs} - train_loss: {loss:.4f} - lr: {cfg.opt.lr}", flush=True)
    figure, axes = plt.subplots()
    axes.plot(history)
    figure.savefig("loss.png")
    plt.figure()
    plt.hist(history)
    plt.show()
    print("final test mse: %.4f" % float(measure(params, x, x.sum(1))))


main()
