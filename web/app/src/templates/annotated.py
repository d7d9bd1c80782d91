"""Plain Python, watched by comments: each #@ line becomes a call, on its own line. It runs by hand as well."""
import random
import time

random.seed(1)
weight, target = 0.0, 3.0
for step in range(1, 31):
    x = random.uniform(-1, 1)
    error = weight * x - target * x
    weight -= 0.3 * error * x
    loss = error * error
    #@step: loss, weight
    print("step", step, "loss", round(loss, 4), flush=True)
    time.sleep(0.1)

distance = abs(weight - target)
#@evaluate: distance
print("weight", round(weight, 3))
