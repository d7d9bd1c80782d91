"""Says what came of the demo's run, from its curves.

Reads what `mlaas metrics mnist-ps -o json` prints. Ends with 1 unless the test
accuracy is at least 0.93 and both workers contributed steps.
"""

import json
import sys

accuracy, steps = 0.0, {}
for curve in json.load(sys.stdin):
    last = curve["points"][-1][-1]
    if curve["key"] == "test_accuracy":
        accuracy = float(last)
    elif curve["key"] == "worker_steps":
        steps[curve["replica"]] = int(last)

print("test accuracy %.4f; steps by worker: %s" % (accuracy, ", ".join("%s %d" % s for s in sorted(steps.items()))))
faults = []
if accuracy < 0.93:
    faults.append("test accuracy is %.4f, want at least 0.93" % accuracy)
if len(steps) < 2 or min(steps.values()) < 1:
    faults.append("both workers should have contributed steps: %s" % steps)
for fault in faults:
    print("fault:", fault, file=sys.stderr)
sys.exit(1 if faults else 0)
