"""A growing file is written to its disk while it grows; nothing depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lamella._sys.writeback import Writeback
from support.needs import needs_tool

MIB = 1 << 20


@pytest.fixture
def file(disk):
    fd = os.open(disk / "file", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def threads():
    return len(os.listdir("/proc/self/task"))


def test_it_is_no_promise_and_no_sync(file):
    """What counts is the owner's own sync; the file holds what was written, whatever was begun."""
    writeback = Writeback(file)
    for number in range(1, 21):
        os.write(file, bytes([number]) * MIB)
        writeback.grown(number * MIB)
    writeback.stop()
    assert [os.pread(file, 1, at * MIB)[0] for at in range(20)] == list(range(1, 21))


@needs_tool("strace")
def test_the_kernel_is_told_of_what_was_added_without_a_gap(disk, tmp_path):
    program = (
        "import os, sys, time\n"
        "from lamella._sys.writeback import Writeback\n"
        "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "writeback = Writeback(fd)\n"
        "for number in range(1, 41):\n"
        "    os.write(fd, bytes(1 << 20))\n"
        "    writeback.grown(number << 20)\n"
        "time.sleep(1)\n"  # what is not begun when it is stopped never is
        "writeback.stop()\n"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=sync_file_range", "-o", trace]
    subprocess.run([*command, sys.executable, "-c", program, disk / "traced"], check=True)
    calls = [line.partition("sync_file_range(")[2] for line in trace.read_text().splitlines()]
    ranges = [[int(word) for word in call.split(", ")[1:3]] for call in calls if call]
    assert ranges
    assert ranges == [[at * MIB, 8 * MIB] for at in range(0, 40, 8)][: len(ranges)]


def test_a_small_file_starts_no_thread(file):
    before = threads()
    writeback = Writeback(file)
    writeback.grown(8 * MIB - 1)
    assert threads() == before
    writeback.stop()


def test_its_thread_ends_with_it(file):
    before = threads()
    writeback = Writeback(file)
    os.truncate(file, 64 * MIB)
    for size in range(MIB, 65 * MIB, MIB):
        writeback.grown(size)
    writeback.stop()
    writeback.stop()
    deadline = time.monotonic() + 30
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # it has said that it ends, and is about to
    assert threads() == before


def test_what_the_kernel_refuses_is_left_to_the_sync_at_the_end(disk):
    reading, writing = os.pipe()
    try:
        writeback = Writeback(writing)  # ESPIPE: it cannot be synced at all
        writeback.grown(64 * MIB)
        writeback.stop()
    finally:
        os.close(reading)
        os.close(writing)
