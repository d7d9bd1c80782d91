"""Three clouds of points, told apart by softmax regression in plain Python.

    python main.py --epochs 20        by hand
    mlaas run examples/evaluate -f    on the platform

After each epoch it says how good its predictions are: the page draws the rest.
"""
import argparse
import math
import random

import mlaas

args = argparse.ArgumentParser()
args.add_argument("--epochs", type=int, default=20)
args.add_argument("--rate", type=float, default=0.05)
args = args.parse_args()

NAMES = ["ash", "birch", "cedar"]
CENTRES = [(0.0, 0.0), (2.0, 0.5), (0.8, 2.0)]


def cloud(n, seed):
    """n points as (1, x, y), and the number of the cloud that each is of."""
    draw = random.Random(seed)
    truth = [draw.randrange(3) for _ in range(n)]
    return [(1.0, draw.gauss(CENTRES[k][0], 0.8), draw.gauss(CENTRES[k][1], 0.8)) for k in truth], truth


def predict(weights, x):
    """The probability of each class for one point."""
    scores = [math.exp(sum(w * v for w, v in zip(row, x))) for row in weights]
    return [s / sum(scores) for s in scores]


points, truth = cloud(1000, seed=1)
held_back, answers = cloud(500, seed=2)
weights = [[0.0] * 3 for _ in NAMES]

for epoch in range(args.epochs):
    loss = 0.0
    for x, k in zip(points, truth):
        p = predict(weights, x)
        loss -= math.log(p[k])
        for c in range(3):
            for i in range(3):
                weights[c][i] -= args.rate * (p[c] - (c == k)) * x[i]
    mlaas.log({"train/loss": loss / len(points)}, step=epoch)
    found = mlaas.evaluate(answers, [predict(weights, x) for x in held_back], labels=NAMES, name="val", step=epoch)
    print("epoch %d: accuracy %.3f, AUC %.3f" % (epoch, found["scores"]["accuracy"], found["scores"]["auc_macro"]))
