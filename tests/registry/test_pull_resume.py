"""Pulls that end before they are done, in every way, and what the next one fetches: only the rest."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

import lamella
from lamella.errors import Aborted, Integrity, Unavailable
from lamella.registry.access import Access, Retrying
from lamella.spec.progress import Cancelled
from lamella.testing import consistency
from support import wire
from support.building import digest_of, file, tar
from support.scripted import Asked, Reply, Scripted, scripted

CHUNK = 256 << 10
"""What a connection is read in; up to ten such pieces can be on their way to the disk."""
UNDERWAY = 10 * CHUNK

PULL = """
import sys, lamella
from pathlib import Path
from lamella.registry.access import Access
with lamella.Store.open(Path(sys.argv[1])) as store:
    store.pull(sys.argv[2], access=Access(plain_http=True))
"""


class Served:
    """An image at a scripted registry that knows ranges, and how many bytes of blobs it has sent to each run.

    Every run asks for a repository of its own (``name_at``): what one that ended asked for late is not taken for what
    the next one does. ``slow`` is a pause in seconds before each blob; ``fail`` may answer a request in place of the
    registry.
    """

    def __init__(self, image: wire.Image) -> None:
        self.image = image
        self.sent: Counter[int] = Counter()
        self.slow = 0.0
        self.fail = lambda asked, data: None

    def __call__(self, asked: Asked) -> Reply:
        if "/manifests/" in asked.path:
            return Reply(200, self.image.raw, {"Content-Type": wire.MANIFEST})
        data = self.image.blobs.get(asked.path.rpartition("/")[2])
        if data is None:
            return Reply(404)
        failure = self.fail(asked, data)
        if failure is not None:
            self.sent[run_of(asked)] += len(failure.body[: failure.cut])
            return failure
        time.sleep(self.slow)
        start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.sent[run_of(asked)] += len(data) - start
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return Reply(206 if start else 200, data[start:], headers)

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(map(len, self.image.blobs.values()))


@pytest.fixture(scope="module")
def image() -> wire.Image:
    """Two layers that do not compress, of 6 and 3 MiB."""
    return wire.image_of(tar(file("a", wire.noise(6 << 20))), tar(file("b", wire.noise(3 << 20, 2))))


def name_at(server: Scripted, run: int = 1) -> str:
    """What a run calls the image."""
    return f"{server.host}/a/run{run}:1"


def run_of(asked: Asked) -> int:
    """The run that asks for a blob."""
    return int(asked.path.rpartition("/blobs/")[0].rpartition("/run")[2])


def access(**fields) -> Access:
    return Access(plain_http=True, sleep=lambda seconds: None, **fields)


def partial(root: Path) -> dict[str, int]:
    """The unfinished blobs of a store, by what they are to become."""
    return {path.name.removesuffix(".blob"): path.stat().st_size for path in (root / "ingest").glob("*.blob")}


def assert_whole(root: Path, image: wire.Image, name: str) -> None:
    """The image is there, every byte of it, and nothing is left over but what a killed process left."""
    with lamella.Store.open(root) as store:
        assert str(store.image(name).digest) == image.digest
        store.gc()
        assert consistency.problems(store) == []
        assert partial(root) == {}
        assert [path.name for path in (root / "ingest").iterdir() if path.name != "layout.lock"] == []


def cut_everything(asked: Asked, data: bytes) -> Reply | None:
    """Half of each layer, and never more."""
    start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    half = len(data) // 2
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
    return Reply(206 if start else 200, data[start:], headers, cut=max(0, half - start)) if len(data) > 9999 else None


def test_a_pull_that_was_cut_off_goes_on_where_it_was(image, disk):
    served = Served(image)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        served.fail = cut_everything
        with pytest.raises((Unavailable, Aborted)):
            store.pull(name_at(server), access=access(retrying=Retrying(attempts=2)))
        assert store.images() == []
        kept = sum(partial(store.root).values())
        assert kept >= (3 << 20) - UNDERWAY
        served.fail = lambda asked, data: None
        store.pull(name_at(server, 2), access=access())
        assert served.sent[2] == served.size - kept
        assert_whole(store.root, image, name_at(server, 2))


def test_a_pull_that_was_cancelled_goes_on_where_it_was(image, disk):
    served = Served(image)

    class Enough:
        """Cancels after two million bytes."""

        left = 2_000_000

        def start(self, key, action, *, total=None, unit="bytes"):
            pass

        def advance(self, key, amount):
            self.left -= amount
            if self.left < 0:
                raise Cancelled("enough")

        def done(self, key, outcome="done"):
            pass

        note = done

    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        with pytest.raises(Aborted):
            store.pull(name_at(server), access=access(), progress=Enough())
        kept = sum(partial(store.root).values())
        store.pull(name_at(server, 2), access=access())
        assert served.sent[2] == served.size - kept < served.size
        assert_whole(store.root, image, name_at(server, 2))


def test_a_plain_layer_goes_on_too(disk):
    layer = tar(file("a", wire.noise(6 << 20)))
    packed = wire.image_of(layer)
    config = next(iter(packed.blobs.values()))
    manifest = json.loads(packed.raw)
    manifest["layers"] = [wire.descriptor("application/vnd.oci.image.layer.v1.tar", layer)]
    plain = wire.Image(json.dumps(manifest).encode(), {digest_of(data): data for data in (config, layer)})
    served = Served(plain)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        served.fail = cut_everything
        with pytest.raises((Unavailable, Aborted)):
            store.pull(name_at(server), access=access(retrying=Retrying(attempts=2)))
        kept = partial(store.root)[digest_of(layer)]
        assert kept >= (3 << 20) - CHUNK
        served.fail = lambda asked, data: None
        store.pull(name_at(server, 2), access=access())
        assert served.sent[2] <= len(layer) - kept + len(config)
        assert_whole(store.root, plain, name_at(server, 2))


def test_a_server_that_knows_no_ranges_is_read_from_the_start(image, disk):
    served = Served(image)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        served.fail = cut_everything
        with pytest.raises((Unavailable, Aborted)):
            store.pull(name_at(server), access=access(retrying=Retrying(attempts=1)))
        served.fail = lambda asked, data: Reply(200, data)
        store.pull(name_at(server), access=access())
        assert_whole(store.root, image, name_at(server))


def test_what_was_kept_and_is_wrong_is_fetched_anew(image, disk):
    served = Served(image)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        for blob, data in image.blobs.items():
            with store.content.open_ingest(blob, keep=True) as ingest:
                ingest.write(bytes(byte ^ 1 for byte in data[:100]) + data[100 : len(data) // 2])
        store.pull(name_at(server), access=access())
        assert_whole(store.root, image, name_at(server))


def test_more_than_the_blob_was_kept(image, disk):
    served = Served(image)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        for blob, data in image.blobs.items():
            with store.content.open_ingest(blob, keep=True) as ingest:
                ingest.write(data + b"more")
        store.pull(name_at(server), access=access())
        assert_whole(store.root, image, name_at(server))


def test_all_of_the_blob_was_kept_and_none_is_fetched(image, disk):
    served = Served(image)
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        for blob, data in image.blobs.items():
            with store.content.open_ingest(blob, keep=True) as ingest:
                ingest.write(data)
        store.pull(name_at(server), access=access())
        assert served.sent[1] == 0
        assert_whole(store.root, image, name_at(server))


def test_wrong_bytes_from_the_registry_are_kept_nowhere(image, disk):
    served = Served(image)
    layer = list(image.blobs)[-1]

    def corrupt(asked: Asked, data: bytes) -> Reply | None:
        if not asked.path.endswith(layer):
            return None
        return Reply(200, data[:-9] + bytes(byte ^ 1 for byte in data[-9:-8]) + data[-8:])

    served.fail = corrupt
    with scripted(served) as server, lamella.Store.open(disk / "store") as store:
        with pytest.raises(Integrity):
            store.pull(name_at(server), access=access())
        assert list(store.content.walk()) == []
        assert partial(store.root) == {}
        served.fail = lambda asked, data: None
        store.pull(name_at(server), access=access())
        assert_whole(store.root, image, name_at(server))


def start_pull(root: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PULL, root, name], stderr=subprocess.PIPE)


def test_processes_that_pull_the_same_image_fetch_it_once(image, disk):
    served = Served(image)
    served.slow = 0.05
    with scripted(served) as server:
        processes = [start_pull(disk / "store", name_at(server)) for _ in range(4)]
        assert [process.communicate()[1].decode() for process in processes] == [""] * 4
        assert [process.returncode for process in processes] == [0] * 4
        layers = sum(len(data) for data in image.blobs.values() if len(data) > 9999)
        assert layers <= served.sent[1] <= layers + 4 * 9999
        assert_whole(disk / "store", image, name_at(server))


KILLS = 100
NURSERY = """
import os, sys, lamella
from pathlib import Path
import urllib3, lamella.transfer.remote, lamella.store.store
from lamella.registry.access import Access
while line := sys.stdin.readline():
    root, name = line.split()
    pid = os.fork()
    if pid == 0:
        try:
            with lamella.Store.open(Path(root)) as store:
                store.pull(name, access=Access(plain_http=True, sleep=lambda seconds: None))
            os._exit(0)
        finally:
            os._exit(1)
    print(pid, flush=True)
    sys.stdin.readline()  # until then the number of the process is nobody else's
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Starts pulls without starting Python for each."""


class Nursery:
    """Runs pulls in processes of their own that are quick to start."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", NURSERY]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, root: Path, name: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{root} {name}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("wait\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def nursery():
    made = Nursery()
    yield made
    made.close()


def test_killing_a_pull_a_hundred_times_fetches_no_more_than_a_chunk_again(image, disk, nursery):
    """Of a layer the piece on its way is fetched again and no more, wherever a kill comes; in the end all is there."""
    served = Served(image)
    chance = random.Random(20)
    layers = {blob: len(data) for blob, data in image.blobs.items() if len(data) > 9999}
    kills, root, run, had = 0, disk / "store-0", 0, 0
    documents = served.size - sum(layers.values())

    def on_disk(blob: str) -> int:
        if (root / "blobs" / blob.replace(":", "/")).exists():
            return layers[blob]
        with suppress(FileNotFoundError):
            return (root / "ingest" / f"{blob}.blob").stat().st_size
        return 0

    def trickle(asked: Asked, data: bytes) -> Reply | None:
        """A piece, once all before it is on the disk, and then the connection breaks: a kill can come at any moment."""
        if len(data) < 9999:
            return None
        of, blob = run_of(asked), asked.path.rpartition("/")[2]
        start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        time.sleep(0.01)
        while of == run and on_disk(blob) < start:
            time.sleep(0.001)
        if of != run:
            return Reply(503)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return Reply(206 if start else 200, data[start:], headers, cut=CHUNK)

    served.fail = trickle
    with scripted(served) as server:

        def finish() -> None:
            nonlocal run
            run += 1
            nursery.start(root, name_at(server, run))
            assert nursery.wait() == 0
            assert_whole(root, image, name_at(server, run))

        while kills < KILLS:
            run += 1
            pid = nursery.start(root, name_at(server, run))
            time.sleep(chance.random() * 0.12)
            os.kill(pid, signal.SIGKILL)
            kills += (code := nursery.wait()) == -signal.SIGKILL
            have = sum(map(on_disk, layers))
            assert served.sent[run] <= have - had + len(layers) * CHUNK + documents
            had = have
            assert not root.exists() or not (root / "index.json").exists() or not consistency.layout_problems(root)
            if code == 0 or have == sum(layers.values()):
                finish()
                root, had = disk / f"store-{kills}", 0
        finish()


def test_cancelling_ends_a_push_to_a_registry_that_says_nothing(image, disk):
    """The work is ended where it waits, and not when the patience with the registry ends."""
    served = Served(image)
    stalled, released = threading.Event(), threading.Event()

    def silent(asked: Asked) -> Reply:
        if asked.method == "POST":
            return Reply(202, headers={"Location": "/v2/a/b/blobs/uploads/x"})
        if asked.method in ("PATCH", "PUT"):
            stalled.set()
            released.wait()
        return Reply(404)

    class UntilItStalls:
        """Cancels when the registry has fallen silent."""

        def start(self, key, action, *, total=None, unit="bytes"):
            pass

        def advance(self, key, amount):
            if stalled.is_set():
                raise Cancelled("enough")

        def done(self, key, outcome="done"):
            pass

        note = done

    with lamella.Store.open(disk / "store") as store, scripted(served) as server:
        store.pull(name_at(server), access=access())
        with scripted(silent) as mute:
            endless = access(read_timeout=10_000)
            with pytest.raises(Aborted):
                store.push(name_at(server), name_at(mute), access=endless, progress=UntilItStalls())
            released.set()
