"""Counts until its gate opens: a line for each number, none left out."""
import os
import threading
import time
import urllib.request

opened = threading.Event()


def wait():
    while True:
        try:
            urllib.request.urlopen(os.environ["GATE"]).read()
            return opened.set()
        except OSError:  # whoever holds the gate is cut off
            time.sleep(0.5)


threading.Thread(target=wait, daemon=True).start()
i = 0
while not opened.wait(0.05):
    i += 1
    print("tick", i, flush=True)
print("counted to", i, flush=True)
