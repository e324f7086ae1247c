"""``lamella serve`` and the machine: full disks, ports that are taken, several servers, kills while it unpacks."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import lamella
import lamella.errors
from _machine import file_system
from lamella.errors import InvalidInput
from lamella.server.serve import parse_listen
from lamella.testing import consistency
from support import building, wire
from support.needs import needs_root
from support.serving import served

MIB = 1 << 20


def whole(root: Path) -> None:
    with lamella.Store.open(root) as store:
        store.gc()
        assert consistency.problems(store) == []
        assert consistency.leftovers(store) == []


@needs_root
def test_a_full_disk_is_said_and_survived(tmp_path):
    image = wire.image_of(building.tar(building.file("a", wire.noise(MIB))))
    with file_system("tmpfs", tmp_path, options="size=14m") as disk, served(disk / "store", "--writable") as server:
        asked = server.wire
        where = asked.begin("app")
        answer = asked.ask("PATCH", where, wire.noise(20 * MIB))
        assert answer.status == 507
        assert asked.ask("GET", where).status == 404, "it has made room for others"
        for blob in image.blobs.values():
            asked.put_blob("app", blob)
        big = wire.noise(8 * MIB)
        asked.put_blob("app", big)
        answer = asked.put_manifest("app", "1", image.raw)  # unpacking it needs a MiB more: there is room for that
        assert answer.status == 201
        answer = asked.ask("PUT", wire.with_query(asked.begin("app"), digest=building.digest_of(big + big)), big + big)
        assert answer.status == 507
        assert asked.ask("DELETE", f"/v2/app/blobs/{building.digest_of(big)}").status == 202
        assert asked.ask("GET", "/v2/app/manifests/1").body == image.raw
        server.server.stop()
        whole(disk / "store")


def test_two_servers_on_one_store(disk):
    root = disk / "store"
    with served(root, "--writable") as one, served(root, "--writable") as two:
        image = one.wire.put_image("app", "1", building.tar(building.file("a", "b")))
        assert two.wire.ask("GET", "/v2/app/manifests/1").body == image.raw
        where = one.wire.begin("app")
        assert one.wire.ask("PATCH", where, b"half").status == 202
        assert two.wire.ask("GET", where).status == 503, "the other one has it"
        digest = building.digest_of(b"half")
        assert one.wire.ask("PUT", wire.with_query(where, digest=digest)).status == 201
        assert two.wire.ask("GET", f"/v2/app/blobs/{digest}").body == b"half"
        assert two.wire.ask("DELETE", "/v2/app/manifests/1").status == 202
        assert one.wire.ask("GET", "/v2/app/tags/list").status == 404
    whole(root)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.3])
def test_a_server_that_is_killed_while_it_unpacks(disk, after):
    root = disk / "store"
    image = wire.image_of(building.tar(*(building.file(f"f{n}", wire.noise(40_000, n)) for n in range(400))))
    with served(root, "--writable") as server:
        asked = server.wire
        for blob in image.blobs.values():
            asked.put_blob("app", blob)
        timer = threading.Timer(after, server.server.kill)
        timer.start()
        try:
            status = asked.put_manifest("app", "1", image.raw).status
        except (ConnectionError, http.client.HTTPException):
            status = 0
        timer.join()
    with served(root, "--writable") as server:
        asked = server.wire
        found = asked.ask("GET", "/v2/app/manifests/1")
        assert found.status == (200 if status == 201 else found.status)
        for digest, blob in image.blobs.items():
            if asked.ask("HEAD", f"/v2/app/blobs/{digest}").status != 200:
                asked.put_blob("app", blob)
        assert asked.put_manifest("app", "1", image.raw).status == 201
        assert asked.ask("GET", "/v2/app/manifests/1").body == image.raw
    whole(root)
    with lamella.Store.open(root) as store:
        assert store.image("app:1").open("/f399").read() == wire.noise(40_000, 399)


def lamella_serve(root: Path, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys\n{before}\nfrom lamella.__main__ import main\nsys.exit(main())"
    command = [sys.executable, "-c", program, "--root", root, "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_port_that_is_taken(disk):
    with served(disk / "store") as server:
        done = lamella_serve(disk / "other", "--listen", server.host)
    assert done.returncode not in (0, 3)
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "127.0.0.1:99999"], "is not HOST:PORT"),
        (["--listen", "0.0.0.0:0", "--writable"], "could write to the store"),
        (["--tls-cert", "/dev/null", "--listen", "127.0.0.1:0"], "belong together"),
        (["--tls-cert", "/dev/null", "--tls-key", "/dev/null", "--listen", "127.0.0.1:0"], "/dev/null"),
        (["--htpasswd", "/nonexistent", "--listen", "127.0.0.1:0"], "/nonexistent"),
        (["--listen", "no.such.host.invalid:0"], "no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(disk, options, said):
    done = lamella_serve(disk / "store", *options)
    assert done.returncode not in (0, 3)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_the_extra_it_says_what_to_install(disk):
    done = lamella_serve(disk / "store", "--listen", "127.0.0.1:0", before="sys.modules['uvicorn'] = None")
    assert done.returncode == lamella.errors.Unsupported.exit_code
    assert "pip install 'lamella[server]'" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)), (":5000", ("", 5000)), ("localhost", ("localhost", 5000)),
        ("[::1]:80", ("::1", 80)), ("[::1]", ("::1", 5000)), ("registry.example:0", ("registry.example", 0)),
    ],
)  # fmt: skip
def test_addresses(text, expected):
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["a:b", "a:-1", "a:65536", "a:", "a:1 ", "a:१"])
def test_addresses_that_are_none(text):
    with pytest.raises(InvalidInput):
        parse_listen(text)


def test_ipv6(disk):
    with served(disk / "store", listen="[::1]:0") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.wire.ask("GET", "/v2/").status == 200
