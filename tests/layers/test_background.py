"""Work in a thread beside its caller, whom a signal may stop anywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lamella.layers.hashing import Ahead, Background, ThreadedHasher
from lamella.spec.digest import Digest

_STORM = """
import signal, time
from lamella.layers.hashing import Background

class Stop(Exception):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGALRM, stop)
end = time.monotonic() + 3
while time.monotonic() < end:
    worker = Background(lambda data: None)
    worker.put(bytes(64 << 10))
    chunk = bytes(64 << 10)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while True:
            worker.put(chunk)
    except Stop:
        pass
    worker.stop()
print("done")
"""


def test_a_signal_that_raises_in_put_leaves_no_lock_behind() -> None:
    done = subprocess.run([sys.executable, "-c", _STORM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_signal_that_raises_in_take_leaves_no_lock_behind() -> None:
    storm = _STORM.replace("import Background", "import Ahead").replace("worker.put(chunk)", "worker.take()")
    storm = storm.replace("Background(lambda data: None)", "Ahead(lambda: bytes(64 << 10))")
    storm = storm.replace("worker.put(bytes(64 << 10))", "worker.take()")
    assert "Background" not in storm
    assert "put(" not in storm
    done = subprocess.run([sys.executable, "-c", storm], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_what_is_made_ahead_comes_in_order_and_then_the_error() -> None:
    chunks = iter([bytes([number]) * (64 << 10) for number in range(20)])

    def make() -> bytes:
        chunk = next(chunks, None)
        if chunk is None:
            raise OSError("cut off")
        return chunk

    worker, seen = Ahead(make), []
    with pytest.raises(OSError, match="cut off"):
        while data := worker.take():
            seen.append(data[0])
    assert seen == list(range(20))
    assert worker.take() == b""
    worker.stop()


def test_what_the_thread_meets_is_raised_to_the_caller() -> None:
    def fail(_: bytes) -> None:
        raise OSError("full")

    worker = Background(fail)
    with pytest.raises(OSError, match="full"):
        for _ in range(100):
            worker.put(bytes(64 << 10))
    worker.stop()
    worker = Background(fail)
    worker.put(bytes(64 << 10))
    with pytest.raises(OSError, match="full"):
        worker.finish()


def test_chunks_come_in_order_and_all() -> None:
    chunks = [bytes([number]) * (1 << number) for number in range(18)] * 20
    hasher, seen = ThreadedHasher(), bytearray()
    worker = Background(seen.extend)
    for chunk in chunks:
        hasher.update(chunk)
        worker.put(chunk)
    worker.finish()
    assert bytes(seen) == b"".join(chunks)
    assert hasher.digest() == Digest.of(bytes(seen))
