"""Processes that tests start: none outlives the test, not even when the test's own process is killed."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from support import needs

PATIENCE = 60.0
"""Seconds for a server to say that it listens; a busy machine takes its time."""


class Server:
    """A server that runs, what it has printed so far, and the address that it said it listens on."""

    def __init__(self, process: subprocess.Popen[bytes], listening: re.Pattern[bytes]) -> None:
        self.process = process
        self.printed: list[bytes] = []
        self.address = ""
        self._listening = listening
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            found = self._listening.search(line)
            if found is not None and not self.address:
                self.address = found[1].decode()
                self._ready.set()
        self._ready.set()

    def wait_until_listening(self) -> None:
        """Wait for the address; a server that ends without one fails the test with what it printed."""
        self._ready.wait(PATIENCE)
        assert self.address, f"{self.process.args} does not listen:\n{self.output}"

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return b"".join(self.printed).decode("utf-8", "replace")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self._finish()

    def stop(self) -> int:
        """Ask it to end, insist when it does not; its exit code."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        return self._finish()

    def _finish(self) -> int:
        code = self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def serving(
    *command: str | Path, listening: bytes, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    """Run a server while the block runs. ``listening`` finds, as its first group, the address in what it prints.

    The kernel kills it when the thread that started it ends, however that comes about.
    """
    tied = [needs.tool("setpriv"), "--pdeathsig", "KILL", "--", *(str(word) for word in command)]
    process = subprocess.Popen(
        tied,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if environment is None else dict(environment),
        cwd=cwd,
    )
    server = Server(process, re.compile(listening))
    try:
        server.wait_until_listening()
        yield server
    finally:
        if process.returncode is None:
            server.stop()
