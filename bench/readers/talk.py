"""Steps of about a millisecond that say a lot, for who listens."""
import argparse
import time

import mlaas

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--block", type=int, default=500)
args = parser.parse_args()
line = "x" * 900
for i in range(args.steps):
    if i % args.block == 0:
        print("cpu", time.process_time(), flush=True)
    total = 0
    for k in range(12000):
        total += k * k
    mlaas.log({"loss": 1.0 / (i + 1)}, step=i)
    print(i, line, flush=True)
print("cpu", time.process_time(), flush=True)
time.sleep(1)  # the supervisor is measured meanwhile
