from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from _machine import needs_root, run_as_nobody
from lamella import errors
from lamella._sys.locks import FileLock

HOLD = """
import sys
from pathlib import Path
from lamella._sys.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire(shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


def holder(path, mode="exclusive"):
    command = [sys.executable, "-c", HOLD, path, mode]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holds_it_and_the_other_does_not(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with first:
        assert first.held
        assert second.acquire(blocking=False) is False
        assert not second.held
    assert second.acquire(blocking=False) is True
    second.release()
    second.release()
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_shared_holders_do_not_exclude_each_other(tmp_path):
    one, two, three = (FileLock(tmp_path / "lock") for _ in range(3))
    assert one.acquire(shared=True, blocking=False)
    assert two.acquire(shared=True, blocking=False)
    assert not three.acquire(blocking=False)
    one.release()
    two.release()
    assert three.acquire(blocking=False)
    three.release()


def test_a_killed_process_leaves_no_lock(tmp_path):
    process = holder(tmp_path / "lock")
    lock = FileLock(tmp_path / "lock")
    with process:
        assert not lock.acquire(blocking=False)
        process.send_signal(signal.SIGKILL)
        assert lock.acquire(blocking=True)
        lock.release()


def test_waiting_ends_when_the_holder_goes(tmp_path):
    process = holder(tmp_path / "lock", "shared")
    lock = FileLock(tmp_path / "lock")
    done = threading.Thread(target=lock.acquire)
    with process:
        done.start()
        assert not lock.held
        process.stdin.close()
        done.join()
    assert lock.held
    lock.release()


def test_a_lock_file_that_was_removed_locks_nobody_out_and_nobody_in(tmp_path):
    old, new = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    process = holder(tmp_path / "lock")
    waiting = threading.Thread(target=old.acquire)
    with process:
        waiting.start()
        (tmp_path / "lock").unlink()
        process.stdin.close()
        waiting.join()
    assert old.held
    assert not new.acquire(blocking=False)  # both mean the file that is there now
    old.release()


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.InvalidInput):
        FileLock(tmp_path / "lock").acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_without_a_directory_is_a_typed_error(tmp_path):
    with pytest.raises(errors.NotFound):
        FileLock(tmp_path / "absent" / "lock").acquire()


def test_acquiring_twice_is_a_mistake(tmp_path):
    with FileLock(tmp_path / "lock") as lock:
        with pytest.raises(RuntimeError):
            lock.acquire()


@needs_root
def test_one_who_may_only_read_can_still_wait_for_the_writer(place):
    (place / "lock").write_bytes(b"")
    (place / "lock").chmod(0o644)

    def try_lock():
        lock = FileLock(place / "lock")
        answer = lock.acquire(shared=True, blocking=False)
        lock.release()
        return answer

    assert run_as_nobody(try_lock) is True
    with FileLock(place / "lock"):
        assert run_as_nobody(try_lock) is False
    (place / "lock").chmod(0o600)
    with pytest.raises(errors.AccessDenied):
        run_as_nobody(try_lock)


def test_a_dropped_lock_object_gives_its_lock_back(tmp_path):
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    del lock
    with FileLock(tmp_path / "lock") as other:
        assert other.held
    assert os.listdir(tmp_path) == ["lock"]
