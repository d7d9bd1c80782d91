"""The smallest job: it says something and measures something."""
import math
import time

import mlaas

steps = int(mlaas.config.get("steps", 60))
for step in range(steps):
    loss = math.exp(-step / 20) + 0.02 * math.sin(step)
    mlaas.log({"loss": loss}, step=step)
    if step % 10 == 0:
        print("step %d: loss %.4f" % (step, loss), flush=True)
    time.sleep(0.1)
print("done")
