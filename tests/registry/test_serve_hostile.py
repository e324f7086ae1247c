"""Clients that mean no good: each gets its refusal, the server goes on, and nothing lands outside of the store."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

import lamella
from lamella.testing import consistency
from support import building, wire
from support.serving import served
from support.wire import ABSENT, INDEX, MANIFEST, Wire

MIB = 1 << 20


@pytest.fixture(scope="module")
def running(real_disk):
    root = real_disk / "serve-hostile"
    with served(
        root, "--writable", "--timeout", "1.5", "--max-blob", str(8 * MIB), "--max-connections", "40"
    ) as server:
        yield server
        assert server.wire.ask("GET", "/v2/").status == 200
    beside = sorted(path.name for path in real_disk.iterdir() if not path.name.startswith(("t-", "serve-", "debian")))
    assert beside in ([], ["restored"])
    with lamella.Store.open(root) as store:
        assert consistency.problems(store) == []


@pytest.fixture
def registry(running) -> Wire:
    return running.wire


NAMES = [
    "..", "../..", "a/../b", "a/..", "./a", "a/./b", "a//b", "/a", "a/", "A", "a/B", "a:b", "a@b", "a b", "-a", "a-",
    "_a", "a..b", "a___b", "%2e%2e", "a/%2e%2e/b", "%2e%2e%2f%2e%2e%2fetc", "a%00b", "a%0ab", "%c3%a9", "a\\b",
    "~", "a*", "a" * 256, "a_b.c/d",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(registry, name):
    name = name.replace(" ", "%20").replace("\\", "%5c")
    for method, path in (
        ("GET", f"/v2/{name}/manifests/latest"), ("PUT", f"/v2/{name}/manifests/latest"),
        ("GET", f"/v2/{name}/blobs/{ABSENT}"), ("POST", f"/v2/{name}/blobs/uploads/"), ("GET", f"/v2/{name}/tags/list"),
        ("GET", f"/v2/{name}/referrers/{ABSENT}"), ("DELETE", f"/v2/{name}/manifests/latest"),
        ("PATCH", f"/v2/{name}/blobs/uploads/{'0' * 48}"),
    ):  # fmt: skip
        answer = registry.ask(method, path)
        assert (answer.status, answer.code) in ((400, "NAME_INVALID"), (404, "NAME_UNKNOWN")), (method, path)


@pytest.mark.parametrize("tag", ["..", ".a", "-a", "a%2fb", "a%00", "a" * 129, "a:b", "a@b", "%c3%a9", "a%20b"])
def test_tags_that_are_none(registry, tag):
    assert registry.ask("GET", f"/v2/app/manifests/{tag}").status == 404
    answer = registry.ask("PUT", f"/v2/app/manifests/{tag}", b"{}")
    assert answer.status in (400, 404)


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../../etc/passwd", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "../x", "sha1:abc", "sha256"],
)
def test_digests_that_are_none(registry, digest):
    answer = registry.ask("GET", f"/v2/app/blobs/{digest.replace('/', '%2f')}")
    assert answer.status in (400, 404)
    answer = registry.ask("POST", f"/v2/app/blobs/uploads/?digest={digest}", b"x")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("id", ["x", "..", "%2e%2e%2fblobs", "0" * 48, "0" * 47 + "g", "a" * 1000])
def test_uploads_that_are_none(registry, id):
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = registry.ask(method, f"/v2/app/blobs/uploads/{id}?digest={ABSENT}", b"x")
        assert answer.status == 404


# -- documents


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"{}", b'"text"', b'{"schemaVersion":1}', b'{"schemaVersion":2}', nested(100_000),
        b'{"schemaVersion":2,"schemaVersion":2}', b"\xff\xfe", b'{"schemaVersion":2,"config":{},"layers":[]}',
        b'{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}', b'{"schemaVersion":NaN}',
        b'{"schemaVersion":2,"layers":[],"config":{"mediaType":"a","digest":"sha256:../../x","size":1}}',
        b'{"schemaVersion":2,"layers":[],"config":{"mediaType":"a","digest":"%s","size":-1}}' % ABSENT.encode(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("media_type", [MANIFEST, INDEX, "application/json", "text/html", ""])
def test_documents_that_are_none(registry, raw, media_type):
    answer = registry.put_manifest("app", "bad", raw, media_type)
    assert answer.status in (400, 413)
    assert answer.code in ("MANIFEST_INVALID", "DIGEST_INVALID", "SIZE_INVALID")
    assert registry.ask("GET", "/v2/app/manifests/bad").status == 404


def test_a_subject_that_is_none(registry):
    image = registry.put_image("app", "good")
    document = {**json.loads(image.raw), "subject": {"digest": "x"}}
    assert registry.put_manifest("app", "bad", document).code in ("MANIFEST_INVALID", "DIGEST_INVALID")
    document["subject"] = "text"
    assert registry.put_manifest("app", "bad", document).code == "MANIFEST_INVALID"


def test_a_manifest_that_is_too_large(registry):
    big = json.dumps({"schemaVersion": 2, "annotations": {"a": "x" * 5 * MIB}}).encode()
    assert registry.put_manifest("app", "big", big).status == 413
    answer = registry.ask("PUT", "/v2/app/manifests/big", (big[at : at + 65536] for at in range(0, len(big), 65536)))
    assert (answer.status, answer.code) == (413, "SIZE_INVALID")


def test_an_announced_manifest_that_is_too_large_is_not_waited_for(registry):
    head = "PUT /v2/app/manifests/big HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    with raw(registry, head.encode()) as client:
        assert b" 413 " in client.recv(4096)


def test_a_bomb_for_a_layer(registry):
    image = wire.image_of(bytes(1 << 20))
    for blob in image.blobs.values():
        registry.put_blob("bomb", blob)
    answer = registry.put_manifest("bomb", "1", image.raw)
    assert answer.status == 201


# -- sizes and times


def test_a_blob_that_is_too_large(registry):
    where = registry.begin("app")
    answer = registry.ask("PATCH", where, bytes(9 * MIB))
    assert (answer.status, answer.code) == (413, "SIZE_INVALID")
    answer = registry.ask("PATCH", where, (bytes(MIB) for _ in range(9)))
    assert (answer.status, answer.code) == (413, "SIZE_INVALID")
    assert registry.ask("GET", where).status == 404, "it cannot come to anything"


def test_a_blob_that_grows_too_large(registry):
    where = registry.begin("app")
    assert registry.ask("PATCH", where, bytes(5 * MIB)).status == 202
    assert registry.ask("PATCH", where, bytes(5 * MIB)).status == 413
    assert registry.ask("DELETE", where).status == 204


def raw(registry: Wire, data: bytes) -> socket.socket:
    """A connection on which this was sent."""
    host, _, port = registry.host.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    with suppress(ConnectionError):  # it may be refused before it is whole
        client.sendall(data)
    return client


def ending(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    got = b""
    try:
        while data := client.recv(65536):
            got += data
    except ConnectionError:
        pass
    return got


@pytest.mark.parametrize(
    "data",
    [
        b"", b"GET ", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: y",
        b"PUT /v2/app/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
        b"POST /v2/app/blobs/uploads/?digest=" + ABSENT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/",
    ],
    ids=["nothing", "a word", "a line", "half a header", "half a manifest", "no blob", "a second request"],
)  # fmt: skip
def test_who_does_not_finish_is_hung_up_on(registry, data):
    with raw(registry, data) as client:
        got = ending(client)
        assert got == b"" or got.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


def test_who_does_not_read_is_hung_up_on(running, registry):
    digest = registry.put_blob("app", wire.noise(7 * MIB))
    host, _, port = registry.host.rpartition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.settimeout(60)
        client.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        local = client.getsockname()[1]
        while _is_connected(int(port), local):
            pass
        assert len(ending(client)) < 7 * MIB


def _is_connected(port: int, other: int) -> bool:
    """Whether the server's end of a connection is there still."""
    time.sleep(0.05)
    wanted = (f":{port:04X}", f":{other:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]) and fields[3] == "01":
            return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100, b"GET /v2/ HTTP/x\r\n\r\n", b"A" * 100_000,
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1_000_000,
        b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 200_000, b"GET /v2/" + b"a" * 1_000_000,
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/\r\n\r\n",
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_request_is_refused(registry, data):
    with raw(registry, data) as client:
        got = ending(client)
        assert got == b"" or got.startswith(b"HTTP/1.1 400"), got[:100]


def test_a_body_with_two_lengths_is_one_request(registry):
    """Smuggling: what two servers in a row could take for different requests is taken for one, or refused."""
    inner = b"GET /v2/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    data = (
        b"PUT /v2/app/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n0\r\n\r\n" % len(inner)
    ) + inner
    with raw(registry, data) as client:
        assert ending(client).count(b"HTTP/1.1 ") == 1


def test_too_many_connections_are_refused_and_then_welcome_again(registry):
    waiting = [raw(registry, b"GET ") for _ in range(45)]
    try:
        assert registry.ask("GET", "/v2/").status in (200, 503)
    finally:
        for client in waiting:
            client.close()
    while registry.ask("GET", "/v2/").status != 200:
        pass


def test_a_refused_endless_body_ends(registry):
    with raw(registry, b"PUT /v2/A/manifests/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n") as client:
        sent = 0
        try:
            while sent < 64 * MIB:
                client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                sent += 65536
        except ConnectionError:
            pass
        assert sent < 64 * MIB


def test_many_uploads_are_begun_and_go_on(registry):
    """More than the server keeps open: those that wait are put aside, and go on when their clients come back."""
    wheres = [registry.begin("many") for _ in range(80)]
    for number in (0, 40, 79):
        data = b"upload %d" % number
        answer = registry.ask("PUT", wire.with_query(wheres[number], digest=building.digest_of(data)), data)
        assert answer.status == 201
    for number, where in enumerate(wheres):
        assert registry.ask("DELETE", where).status == (404 if number in (0, 40, 79) else 204)
