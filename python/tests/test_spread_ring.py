"""The ring by which replicas average, and mlaas.sync over it."""
import os
import socket
import threading

import numpy as np
import pytest

from conftest import addresses
from mlaas._spread._ring import Broken, Ring


def together(n, f, key=lambda rank: b"k"):
    """What f(ring) gives, or raises, on each of n replicas."""
    peers = addresses(n)
    got = [None] * n

    def one(rank):
        try:
            ring = Ring(peers, rank, key(rank), meeting=20)
            try:
                got[rank] = f(ring)
            finally:
                ring.leave()
        except BaseException as e:
            got[rank] = e

    threads = [threading.Thread(target=one, args=(r,)) for r in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads)
    for g in got:
        if isinstance(g, BaseException) and not isinstance(g, Broken):
            raise g
    return got


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_mean(n):
    def f(ring):
        r = ring.rank
        out = ring.mean([np.full((2, 3), r, np.float32), np.arange(4, dtype=np.float64) * r, np.float16(r), np.zeros((0, 2), np.float32)])
        return [(a.dtype.name, a.tolist()) for a in out]

    m = (n - 1) / 2
    for got in together(n, f):
        assert got == [("float32", [[m] * 3] * 2), ("float64", [0, m, 2 * m, 3 * m]), ("float16", m), ("float32", [])]


def test_mean_of_more_than_the_sockets_hold():
    """Everybody sends at once: it must not wait for itself."""
    for got in together(3, lambda ring: float(ring.mean([np.full(4_000_000, ring.rank, np.float32)])[0].sum())):
        assert got == 4_000_000


def test_broadcast_and_share():
    big = os.urandom(3_000_000)
    for got in together(4, lambda ring: (ring.broadcast(big if ring.rank == 0 else b"mine"), [a.tolist() for a in ring.share([np.array([ring.rank, 7.0]), np.int64(ring.rank)])])):
        assert got == (big, [[0, 7], 0])


def test_different_ways_are_heard_of():
    got = together(2, lambda ring: ring.mean([np.zeros(3 + ring.rank)]))
    assert all(isinstance(g, Broken) and "gone different ways" in str(g) for g in got), got


def test_one_that_leaves_is_heard_of():
    got = together(3, lambda ring: None if ring.rank == 1 else ring.mean([np.zeros(3)]))
    assert got[1] is None and all(isinstance(got[r], Broken) and "is gone" in str(got[r]) for r in (0, 2)), got


def test_a_stranger_is_not_let_in():
    peers = addresses(2)
    got = {}

    def one(rank):
        ring = Ring(peers, rank, b"right", meeting=20)
        got[rank] = ring.mean([np.array([float(rank)])])[0].tolist()
        ring.leave()

    first = threading.Thread(target=one, args=(0,))
    first.start()
    host, port = peers[0].split(":")
    for key in (b"wrong", None):  # one that guesses, one that says nothing sensible
        for _ in range(200):
            try:
                s = socket.create_connection((host, int(port)), timeout=5)
                break
            except OSError:
                threading.Event().wait(0.05)
        s.settimeout(20)
        try:
            s.sendall(b"mlaas-ring-1\n" + b"\0\0\0\1" + b"n" * 16 if key else b"GET / HTTP/1.1\r\n\r\n" + b"x" * 40)
            if key:
                assert len(s.recv(100)) > 0
                s.sendall(b"p" * 32)
            while s.recv(100):  # closed, and not answered
                pass
        except ConnectionError:
            pass
        s.close()
    second = threading.Thread(target=one, args=(1,))
    second.start()
    first.join(30)
    second.join(30)
    assert got == {0: [0.5], 1: [0.5]}


def test_one_that_does_not_come():
    peers = addresses(2)
    with pytest.raises(Broken, match="did not answer within"):
        Ring(peers, 0, b"k", meeting=0.3)


SYNC = """
import json, mlaas, numpy as np, sys
from mlaas import _spread; rank = float(_spread.settings.rank)
%s
"""


@pytest.mark.parametrize(
    "code, want",
    [
        ("print(json.dumps(mlaas.sync({'w': np.array([rank, 1.0]), 'n': 3, 'l': [rank, (np.float32(rank),)]}), default=lambda a: a.tolist()))", ['{"w": [0.5, 1.0], "n": 3, "l": [0.5, [0.5]]}'] * 2),
        ("x = np.array([rank])\nfor i in range(4): x = mlaas.sync(x + rank, every=2)\nprint(x)", ["[2.5]"] * 2),
        ("x = np.array([rank])\nfor i in range(3): x = mlaas.sync(x + rank + 1, outer_lr=0.5, outer_momentum=0.5)\nprint(x)", None),
    ],
)
def test_sync(spread, code, want):
    got = [d.stdout.strip() for d in spread(SYNC % code)]
    if want is None:
        # The first call gives the chief's 1; then each moves by 1 or 2, 1.5 in
        # the mean, and the step is lr * (moved + momentum * velocity).
        v, x = 0.0, 1.0
        for _ in range(2):
            v = 0.5 * v + -1.5
            x -= 0.5 * (-1.5 + 0.5 * v)
        assert got == ["[%s]" % x] * 2
    else:
        assert got == want
