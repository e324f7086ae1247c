"""A server seen from far away: passes connections on, everything late. ``distance.py HOST:PORT SECONDS`` says where."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress

_CHUNK = 256 << 10


def main(address: str, delay: float) -> None:
    """Print the address of a server that is ``address``, each way ``delay`` seconds away; until it is killed."""
    host, _, port = address.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
        _accept(listener, (host, int(port)), delay)


def _accept(listener: socket.socket, target: tuple[str, int], delay: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            time.sleep(delay)
            far = socket.create_connection(target)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(*ends, delay), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Pass bytes on, each as late as the others."""
    waiting: deque[tuple[float, bytes]] = deque()
    filled = threading.Semaphore(0)

    def deliver() -> None:
        with suppress(OSError):
            while True:
                filled.acquire()
                due, data = waiting.popleft()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    threading.Thread(target=deliver, daemon=True).start()
    with suppress(OSError):
        while True:
            data = source.recv(_CHUNK)
            waiting.append((time.monotonic() + delay, data))
            filled.release()
            if not data:
                return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
