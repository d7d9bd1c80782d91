"""Says what it may use at most, and what two processes that spin for 4 s get."""
import os
import time

for path in ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"):
    if os.path.exists(path):
        print("memory", open(path).read().strip(), flush=True)
began = time.monotonic()
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < began + 4:
            pass
        os._exit(0)
for _ in range(2):
    os.wait()
used = os.times().children_user + os.times().children_system
print("cores %.3f" % (used / (time.monotonic() - began)), flush=True)
