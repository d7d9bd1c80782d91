"""Reads the finished job of the demo and says what came of it.

Ends with 1 unless the test accuracy is at least 0.93 and both workers
contributed steps.
"""

import json
import sys

job = json.load(sys.stdin)
results = job.get("results") or {}
metrics = results.get("metrics") or {}
accuracy = float(metrics.get("test_accuracy", 0))
steps = {k[len("steps/"):]: int(v) for k, v in metrics.items() if k.startswith("steps/")}

print(f"{job['name']}: {job['status']['state']}, test accuracy {accuracy:.3f}, steps by worker: {steps}")
faults = []
if job["status"]["state"] != "succeeded":
    faults.append(f"the run {job['status']['state']}: {job['status']['reason']}")
if accuracy < 0.93:
    faults.append(f"test accuracy is {accuracy:.3f}, want at least 0.93")
if len(steps) < 2 or min(steps.values()) < 1:
    faults.append(f"both workers should have contributed steps: {steps}")
for fault in faults:
    print("fault:", fault, file=sys.stderr)
sys.exit(1 if faults else 0)
