"""click, NumPy alone, lines of JSON, a logger on stdout, a table."""
import json
import logging
import sys

import click
import numpy as np

log = logging.getLogger(__name__)


@click.group()
def cli():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")


@cli.command()
@click.option("--lr", default=0.1, type=float)
@click.option("--api-token", default="s3cr3t")
@click.argument("n", type=int)
def train(lr, api_token, n):
    rng, w = np.random.RandomState(0), np.zeros(3)
    X = rng.rand(50, 3)
    for i in range(n):
        e = X @ w - X @ [1, 2, 3]
        w -= lr * X.T @ e / 50
        log.info("iter %d: mse=%.5f mae=%.5f", i, (e**2).mean(), abs(e).mean())
        print(json.dumps({"epoch": i, "loss": round(float((e**2).mean()), 5)}))
    print("| metric | value |\n| rmse | %.4f |" % (e**2).mean() ** 0.5)


if __name__ == "__main__":
    cli()
