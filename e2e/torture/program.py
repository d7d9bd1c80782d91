"""What the runs of the torture do: they say where they are, and are counted.

The connection to the witness is open for as long as this process lives, so
the witness knows, without the platform, what runs and how often it began.
"""
import os
import socket
import sys
import time

import mlaas


def option(name):
    return sys.argv[sys.argv.index("--" + name) + 1]


host, port = option("witness").rsplit(":", 1)
witness = socket.create_connection((host, int(port)), 10)
witness.sendall(("%s %s %s %d\n" % (os.environ["MLAAS_RUN"], os.environ["MLAAS_EPOCH"], os.environ["MLAAS_REPLICA"], os.getpid())).encode())

n, pause = int(option("lines")), float(option("pause"))
resumed = mlaas.resume()
first = 0
if resumed:
    first = resumed.step + 1
    with open(os.path.join(resumed.path, "state")) as f:
        if f.read() != "state of step %d\n" % resumed.step * 100:
            sys.exit("the checkpoint of step %d is torn" % resumed.step)
sys.stdout.write("begin %s\n" % first)
sys.stdout.flush()
for i in range(first, n):
    sys.stdout.write("line %d\n" % i)  # whole, at once: it may be killed between two writes
    sys.stdout.flush()
    mlaas.log({"i": i}, step=i)
    while i == n // 2:
        try:
            with open("state", "w") as f:
                f.write("state of step %d\n" % i * 100)
            if mlaas.checkpoint("state", step=i):
                break
        except OSError:
            pass
        time.sleep(0.1)  # the disk is full for a while
    time.sleep(pause)
