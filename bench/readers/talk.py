"""Steps of about a millisecond that say a lot, for who listens."""
import argparse
import os
import sys
import time

import mlaas

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
steps = parser.parse_args().steps
line = "x" * 900
print("begin", flush=True)
begun = time.process_time()
for i in range(steps):
    total = 0
    for k in range(12000):
        total += k * k
    mlaas.log({"loss": 1.0 / (i + 1)}, step=i)
    print(i, line, flush=True)
used = time.process_time() - begun
print("cpu", used, steps, flush=True)
time.sleep(1)  # the supervisor is measured meanwhile
