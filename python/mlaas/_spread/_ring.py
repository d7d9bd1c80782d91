"""A ring of replicas that average arrays: sockets and NumPy, nothing else.

Each replica listens where the job says, connects to the next one and takes the
one before. A sum goes round in pieces (reduce-scatter, then all-gather), so
each replica sends about twice the size of what is averaged, however many there
are.

Who does not know the job's key is not let in. What goes over the wire is
numbers, never code: nothing of it is executed or unpickled.
"""
from __future__ import annotations

import hashlib
import hmac
import os
import select
import socket
import struct
import threading
import time
import zlib
from typing import Any, List, Sequence, Tuple

MAGIC = b"mlaas-ring-1\n"
MEETING = 600.0  # seconds in which all replicas must have come: environments may differ in age


class Broken(RuntimeError):
    """The replicas cannot go on together; the message says why."""


class Ring:
    """The place of one replica among its peers. One thread at a time uses it.

    Args:
        peers: "host:port" of every replica, in the order of their ranks.
        rank: of this one.
        key: known to the replicas of this attempt alone.
        meeting: seconds to wait for the others.
    """

    def __init__(self, peers: Sequence[str], rank: int, key: bytes, meeting: float = MEETING):
        self.rank, self.size, self.key = rank, len(peers), key
        self.count = 0  # of operations; all replicas must be at the same one
        self.next: Any = None
        self.before: Any = None
        if self.size > 1:
            self.meeting = meeting
            self._meet([_address(p) for p in peers], time.monotonic() + meeting)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self.leave)

    # ---- meeting ----

    def _meet(self, peers: List[Tuple[str, int]], deadline: float) -> None:
        host, port = peers[self.rank]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        failed: List[BaseException] = []
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as e:
                raise Broken("this replica cannot listen at %s:%d, which the platform keeps for it: %s" % (host, port, e)) from None
            listener.listen(8)

            def take() -> None:
                try:
                    self.before = self._take(listener, deadline)
                except BaseException as e:  # handed to the thread that waits
                    failed.append(e)

            taker = threading.Thread(target=take, name="mlaas-ring", daemon=True)
            taker.start()
            try:
                self.next = self._call(peers[(self.rank + 1) % self.size], deadline)
            finally:
                if self.next is None:
                    listener.close()
            taker.join()
        finally:
            listener.close()
        if failed:
            self.leave()
            raise failed[0]
        for s in (self.next, self.before):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            s.setblocking(False)

    def _take(self, listener: socket.socket, deadline: float) -> socket.socket:
        want = (self.rank - 1) % self.size
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Broken("replica %d did not come to train together within %g s" % (want, self.meeting))
            listener.settimeout(min(left, 5))
            try:
                s, _ = listener.accept()
            except socket.timeout:
                continue
            try:
                s.settimeout(10)
                hello = _exactly(s, len(MAGIC) + 4 + 16)
                rank, nonce = struct.unpack(">I", hello[len(MAGIC) : -16])[0], hello[-16:]
                mine = os.urandom(16)
                s.sendall(mine + self._sign(b"taker", rank, nonce, mine))
                if hello.startswith(MAGIC) and rank == want and hmac.compare_digest(_exactly(s, 32), self._sign(b"caller", rank, mine, nonce)):
                    return s
            except (OSError, struct.error):
                pass
            s.close()  # a stranger, or one of another attempt

    def _call(self, to: Tuple[str, int], deadline: float) -> socket.socket:
        wait, why = 0.05, ""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Broken("replica %d at %s:%d did not answer within %g s: %s" % ((self.rank + 1) % self.size, to[0], to[1], self.meeting, why))
            try:
                s = socket.create_connection(to, timeout=min(left, 10))
            except OSError as e:
                why = str(e)
                threading.Event().wait(min(wait, left))
                wait = min(wait * 2, 1)
                continue
            try:
                nonce = os.urandom(16)
                s.sendall(MAGIC + struct.pack(">I", self.rank) + nonce)
                answer = _exactly(s, 16 + 32)
                if hmac.compare_digest(answer[16:], self._sign(b"taker", self.rank, nonce, answer[:16])):
                    s.sendall(self._sign(b"caller", self.rank, answer[:16], nonce))
                    return s
                why = "whoever is there does not know the job's key"
            except OSError as e:
                why = str(e)
            s.close()
            threading.Event().wait(min(wait, max(left, 0)))
            wait = min(wait * 2, 1)

    def _sign(self, who: bytes, rank: int, a: bytes, b: bytes) -> bytes:
        return hmac.new(self.key, MAGIC + who + struct.pack(">I", rank) + a + b, hashlib.sha256).digest()

    def leave(self) -> None:
        """Close the connections. Those who wait for this replica hear of it."""
        for s in (self.next, self.before):
            if s is not None:
                s.close()
        self.next = self.before = None

    # ---- what it is for ----

    def mean(self, arrays: Sequence[Any]) -> List[Any]:
        """The mean over all replicas of each array.

        Args:
            arrays: NumPy arrays of floating-point numbers or integers, in the
                same order and of the same shapes everywhere.
        Returns: arrays of the same shapes and types; the mean of integers is
            rounded towards zero.
        Raises: Broken if a replica is gone, or has come with something else.
        """
        import numpy as np

        arrays = [np.asarray(a) for a in arrays]
        if self.size == 1 or not arrays:
            return arrays
        # Half precision is summed in single; 64 bits where anything needs them.
        wide = any(a.dtype.itemsize == 8 for a in arrays)
        flat = np.concatenate([a.reshape(-1).astype(np.float64 if wide else np.float32, copy=False) for a in arrays])
        self._agree(b"mean", ",".join("%s%s" % (a.dtype, a.shape) for a in arrays))
        self._sum(flat)
        flat /= self.size
        out, at = [], 0
        for a in arrays:
            out.append(flat[at : at + a.size].astype(a.dtype).reshape(a.shape))
            at += a.size
        return out

    def broadcast(self, data: bytes) -> bytes:
        """What rank 0 gives, on every replica; what the others give is ignored."""
        if self.size == 1:
            return data
        self._agree(b"cast", "")
        size = bytearray(struct.pack(">Q", len(data)))
        if self.rank == 0:
            self._send(memoryview(size))
            self._send(memoryview(data))
            return data
        self._receive(memoryview(size))
        got = bytearray(struct.unpack(">Q", size)[0])
        if self.rank == self.size - 1:
            self._receive(memoryview(got))
            return bytes(got)
        self._send(memoryview(size))
        # Passed on in pieces, so that the last one need not wait for all of it.
        view, piece = memoryview(got), 1 << 20
        for at in range(0, len(got), piece):
            self._receive(view[at : at + piece])
            self._send(view[at : at + piece])
        return bytes(got)

    def share(self, arrays: Sequence[Any]) -> List[Any]:
        """The arrays of rank 0, on every replica: same shapes and types there."""
        import numpy as np

        arrays = [np.asarray(a, order="C") for a in arrays]
        data = self.broadcast(b"".join(a.tobytes() for a in arrays) if self.rank == 0 else b"")
        if len(data) != sum(a.nbytes for a in arrays):
            raise Broken("replica %d has variables of %d bytes and replica 0 of %d: the program does not build the same model everywhere" % (self.rank, sum(a.nbytes for a in arrays), len(data)))
        out, at = [], 0
        for a in arrays:
            out.append(np.frombuffer(data, a.dtype, a.size, at).reshape(a.shape))
            at += a.nbytes
        return out

    # ---- how ----

    def _agree(self, what: bytes, of: str) -> None:
        """Every replica is at the same operation, or says that it is not."""
        self.count += 1
        mine = struct.pack(">4sQI", what, self.count, zlib.crc32(of.encode()))
        theirs = bytearray(len(mine))
        self._both(memoryview(mine), memoryview(theirs))
        if bytes(theirs) != mine:
            raise Broken(
                "the replicas have gone different ways: replica %d and replica %d no longer average the same arrays in the same order. "
                "Something in the program depends on a number that differs between them, such as an early end by the training loss; "
                "code.distribute: off runs them apart" % (self.rank, (self.rank - 1) % self.size)
            )

    def _sum(self, flat: Any) -> None:
        """In place, the sum over all replicas."""
        import numpy as np

        n = self.size
        bounds = [len(flat) * i // n for i in range(n + 1)]

        def part(i: int) -> Any:
            return flat[bounds[i % n] : bounds[i % n + 1]]

        buffer = np.empty(max(bounds[i + 1] - bounds[i] for i in range(n)), flat.dtype)
        for k in range(n - 1):  # each piece is summed on its way round
            out, into = part(self.rank - k), part(self.rank - k - 1)
            got = buffer[: len(into)]
            self._both(_bytes(out), _bytes(got))
            into += got
        for k in range(n - 1):  # and goes round once more, whole
            self._both(_bytes(part(self.rank + 1 - k)), _bytes(part(self.rank - k)))

    def _both(self, out: memoryview, into: memoryview) -> None:
        """Send to the next while receiving from the one before."""
        sent = got = 0
        if self.next is None or self.before is None:
            raise Broken("replica %d has left the ring" % self.rank)
        try:
            while sent < len(out) or got < len(into):
                r = [self.before] if got < len(into) else []
                w = [self.next] if sent < len(out) else []
                can_read, can_write, _ = select.select(r, w, [])
                try:
                    if can_write:
                        sent += self.next.send(out[sent : sent + (1 << 20)])
                    if can_read:
                        n = self.before.recv_into(into[got:])
                        if n == 0:
                            raise ConnectionResetError("it closed the connection")
                        got += n
                except BlockingIOError:  # select may be wrong about it
                    continue
        except OSError as e:
            self.leave()  # the others hear of it too, and do not wait for ever
            raise Broken("a replica beside replica %d is gone, and its training with it: %s" % (self.rank, e)) from None

    def _send(self, out: memoryview) -> None:
        self._both(out, memoryview(b""))

    def _receive(self, into: memoryview) -> None:
        self._both(memoryview(b""), into)


def _bytes(array: Any) -> memoryview:
    return memoryview(array).cast("B") if array.size else memoryview(bytearray())


def _address(text: str) -> Tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _exactly(s: socket.socket, n: int) -> bytes:
    got = b""
    while len(got) < n:
        some = s.recv(n - len(got))
        if not some:
            raise ConnectionResetError("it closed the connection")
        got += some
    return got


