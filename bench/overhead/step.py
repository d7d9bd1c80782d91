"""A training loop of small steps, by hand or watched: the same program.

Prints its own CPU seconds for a stretch of steps, imports and start-up not
counted. With --track it logs a loss at every step, as a watched program does.
"""

import argparse
import random
import time

p = argparse.ArgumentParser()
p.add_argument("--steps", type=int, default=2000)
p.add_argument("--warm", type=int, default=200)
p.add_argument("--track", type=int, default=0)
a = p.parse_args()

if a.track:
    import mlaas

random.seed(1)
n = 24
weights = [[random.random() for _ in range(n)] for _ in range(n)]


def step(i):
    """About a millisecond of arithmetic: one matrix product."""
    x = [[(i * r + c) % 7 for c in range(n)] for r in range(n)]
    y = [[sum(w * v for w, v in zip(row, col)) for col in zip(*x)] for row in weights]
    return sum(map(sum, y)) / (n * n)


for i in range(a.warm):
    step(i)
print("begin", flush=True)
began = time.process_time()
for i in range(a.steps):
    loss = step(i)
    if a.track:
        mlaas.log({"loss": loss}, step=i)
if a.track:
    mlaas.flush()
print("cpu", time.process_time() - began, flush=True)
if a.track:
    time.sleep(1)  # so that whoever measures finds the supervisor still there
