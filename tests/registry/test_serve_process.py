"""``lamella serve`` as it is run: read-only or not, with users and TLS, killed, and beside others who use the store."""

from __future__ import annotations

import http.client
import lzma
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lamella
from lamella.errors import FailedPrecondition, InvalidInput, LamellaError
from lamella.server.serve import Options, serve
from lamella.server.users import Users
from lamella.testing import consistency
from support import building, registries, serving, wire
from support.needs import needs_tool
from support.serving import served
from support.wire import ABSENT, Wire

LAYER_TAR = building.tar(building.directory("etc"), building.file("etc/motd", "hello\n"))


@pytest.fixture
def root(disk) -> Path:
    return disk / "served"


def loaded(root: Path, disk: Path, *names: str) -> lamella.Store:
    """A store with one image under these names, open."""
    store = lamella.Store.open(root)
    building.layout(disk / "layout", [LAYER_TAR])
    store.load(disk / "layout", name=names[0])
    for name in names[1:]:
        store.tag(names[0], name)
    return store


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of a store, but for what SQLite keeps beside its database while it is open."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("catalog.db-"))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def whole(root: Path) -> None:
    """The store is whole and nobody is at work in it."""
    with lamella.Store.open(root) as store:
        assert consistency.problems(store) == []
        assert not store.catalog.leases()


# -- reading only


def test_read_only_refuses_everything_that_writes(root, disk):
    loaded(root, disk, "app:1").close()
    with served(root) as server:
        asked = server.wire
        before = files(root)
        requests = [
            ("POST", "/v2/app/blobs/uploads/"), ("POST", f"/v2/app/blobs/uploads/?digest={ABSENT}"),
            ("PATCH", "/v2/app/blobs/uploads/" + "0" * 48), ("PUT", "/v2/app/blobs/uploads/" + "0" * 48),
            ("DELETE", "/v2/app/blobs/uploads/" + "0" * 48), ("PUT", "/v2/app/manifests/1"),
            ("DELETE", "/v2/app/manifests/1"), ("DELETE", f"/v2/app/blobs/{ABSENT}"),
        ]  # fmt: skip
        for method, path in requests:
            answer = asked.ask(method, path, b"abc" if method != "DELETE" else None)
            assert (answer.status, answer.code) == (405, "UNSUPPORTED"), (method, path)
        manifest = asked.ask("GET", "/v2/app/manifests/1").json
        for blob in (manifest["config"], *manifest["layers"]):
            assert len(asked.ask("GET", f"/v2/app/blobs/{blob['digest']}").body) == blob["size"]
        assert files(root) == before
        with lamella.Store.open(root) as store:
            assert not store.catalog.leases()
    whole(root)


def test_names_are_repositories(root, disk):
    names = ["app:1", "user/app:1", "quay.io/org/app:1", "localhost/mine:1", "other.example:5000/app:1"]
    with loaded(root, disk, *names) as store, served(root) as server:
        store.tag("app:1", f"{server.host}/pushed/from-here:2")
        store.tag("app:1", f"localhost:{server.host.rpartition(':')[2]}/pushed:3")
        asked = server.wire
        found = asked.ask("GET", "/v2/_catalog").json["repositories"]
        assert found == ["app", "localhost/mine", "pushed", "pushed/from-here", "quay.io/org/app", "user/app"]
        for repository in found:
            (tag,) = asked.ask("GET", f"/v2/{repository}/tags/list").json["tags"]
            assert asked.ask("GET", f"/v2/{repository}/manifests/{tag}").status == 200
        for same in ("library/app", "docker.io/app", "docker.io/library/app"):
            assert asked.ask("GET", f"/v2/{same}/tags/list").json == {"name": same, "tags": ["1"]}


def test_what_others_do_to_the_store_shows_at_once(root, disk):
    with loaded(root, disk, "app:1") as store, served(root) as server:
        asked = server.wire
        digest = asked.ask("GET", "/v2/app/manifests/1").headers["docker-content-digest"]
        store.tag("app:1", "app:2")
        assert asked.ask("GET", "/v2/app/tags/list").json["tags"] == ["1", "2"]
        store.remove(["app:1"])
        assert asked.ask("GET", "/v2/app/manifests/1").status == 404
        store.remove(["app:2"])
        assert asked.ask("GET", "/v2/app/tags/list").status == 404
        assert asked.ask("GET", f"/v2/app/manifests/{digest}").status == 404


def test_a_damaged_blob_is_never_sent_whole(root, disk):
    with loaded(root, disk, "app:1") as store:
        image = store.image("app:1")
        layer = image.manifest.layers[0]
        path = store.content.path(layer.digest)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with serving.serving(*_command(root), listening=rb"^(http://[^ \n]+)") as server:
        asked = Wire(server.address.removeprefix("http://"))
        with pytest.raises(http.client.IncompleteRead):
            asked.ask("GET", f"/v2/app/blobs/{layer.digest}")


def _command(root: Path) -> list[str | Path]:
    return [sys.executable, "-m", "lamella", "--root", root, "serve", "--listen", "127.0.0.1:0"]


def test_a_damaged_manifest_is_not_sent(root, disk):
    with loaded(root, disk, "app:1") as store:
        digest = store.image("app:1").digest
        path = store.content.path(digest)
        path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    with served(root) as server:
        answer = server.wire.ask("GET", "/v2/app/manifests/1")
        assert answer.status == 500
        assert answer.json["errors"][0]["message"] == "something here is damaged"


# -- users


@pytest.fixture
def users(tmp_path) -> Path:
    return registries.htpasswd(tmp_path, ("ann", "se:cret"), ("bob", "pässword"), ("long", "x" * 100))


@needs_tool("htpasswd")
def test_users_are_asked_for_their_passwords(root, disk, users):
    loaded(root, disk, "app:1").close()
    with served(root, "--writable", "--htpasswd", users) as server:
        asked = server.wire
        for wrong in (
            asked, asked.as_user("ann", "secret"), asked.as_user("ann", ""), asked.as_user("eve", "se:cret"),
            asked.as_user("", ""), Wire(server.host, {"Authorization": "Bearer se:cret"}),
            Wire(server.host, {"Authorization": "Basic !!!"}), Wire(server.host, {"Authorization": "Basic YW5u"}),
            Wire(server.host, {"Authorization": "Basic"}), asked.as_user("ann\0", "se:cret"),
            asked.as_user("ann", "se:cret\0"),
        ):  # fmt: skip
            for method, path in (("GET", "/v2/"), ("GET", "/v2/app/manifests/1"), ("POST", "/v2/app/blobs/uploads/")):
                answer = wrong.ask(method, path)
                assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
                assert answer.headers["www-authenticate"] == 'Basic realm="lamella", charset="UTF-8"'
        for user, password in (("ann", "se:cret"), ("bob", "pässword"), ("long", "x" * 100)):
            right = asked.as_user(user, password)
            assert right.ask("GET", "/v2/").status == 200
            assert right.ask("GET", "/v2/app/manifests/1").status == 200
        right.put_image("pushed", "1", LAYER_TAR)
    with lamella.Store.open(root) as store:
        assert store.exists("pushed:1")


@needs_tool("htpasswd")
def test_users_change_while_the_server_runs(root, users):
    with served(root, "--htpasswd", users) as server:
        ann, bob = server.wire.as_user("ann", "se:cret"), server.wire.as_user("bob", "pässword")
        assert ann.ask("GET", "/v2/").status == bob.ask("GET", "/v2/").status == 200
        users.write_text("".join(line for line in users.read_text().splitlines(True) if not line.startswith("ann")))
        assert ann.ask("GET", "/v2/").status == 401
        assert bob.ask("GET", "/v2/").status == 200
        users.write_text("no line of such a file\n")
        for _ in range(2):
            assert bob.ask("GET", "/v2/").status == 503
        users.unlink()
        assert bob.ask("GET", "/v2/").status == 503


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ann\n", "htpasswd-line"),
        ("ann:{SHA}W6ph5Mm5Pz8=\n", "htpasswd-hash"),
        (None, "file-not-found"),
    ],
)
def test_a_file_of_users_that_is_none(root, tmp_path, text, code):
    path = tmp_path / "users"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LamellaError) as raised:
        Users(path)
    assert raised.value.code == code


# -- who may connect


def test_nobody_serves_a_writable_store_to_everybody(root):
    with lamella.Store.open(root) as store:
        for host in ("0.0.0.0", "", "192.0.2.1", "::"):
            with pytest.raises(FailedPrecondition) as raised:
                serve(store, Options(host, 0, writable=True), ready=print)
            assert raised.value.code == "serve-open"


def test_pages_of_other_sites_do_not_write(root):
    with served(root, "--writable") as server:
        page = Wire(server.host, {"Origin": "http://evil.example"})
        answer = page.ask("POST", f"/v2/a/blobs/uploads/?digest={building.digest_of(b'abc')}", b"abc")
        assert (answer.status, answer.code) == (403, "DENIED")


@needs_tool("openssl")
def test_tls(root, disk, server_certificate):
    loaded(root, disk, "app:1").close()
    options = ("--tls-cert", server_certificate.certificate, "--tls-key", server_certificate.key)
    with served(root, *options) as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=server_certificate.authority)
        assert Wire(server.host, tls=trusting).ask("GET", "/v2/app/manifests/1").status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            Wire(server.host, tls=ssl.create_default_context()).ask("GET", "/v2/")


# -- pushing beside others, and through the end of the server


def test_a_killed_server_goes_on_with_uploads_when_it_is_back(root):
    data = wire.noise(4_000_000)
    with served(root, "--writable") as server:
        where = server.wire.begin("app")
        connection = server.wire.connect()
        connection.putrequest("PATCH", where)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        connection.send(data[:2_500_000])
        upload = next((root / "ingest").glob("upload-*"))
        while upload.stat().st_size < 1 << 21:
            time.sleep(0.01)
        server.server.kill()
        connection.close()
    with served(root, "--writable") as server:
        asked = server.wire
        answer = asked.ask("GET", where)
        assert answer.status == 204
        start = int(answer.headers["range"].removeprefix("0-")) + 1
        assert 1 << 21 <= start <= 2_500_000
        rest = {"Content-Range": f"{start}-{len(data) - 1}"}
        answer = asked.ask("PATCH", answer.location, data[start:], rest)
        assert answer.status == 202
        digest = building.digest_of(data)
        assert asked.ask("PUT", wire.with_query(answer.location, digest=digest)).status == 201
        assert asked.ask("GET", f"/v2/app/blobs/{digest}").body == data
    whole(root)


def test_an_upload_survives_a_stop_and_a_broken_connection(root):
    data = wire.noise(300_000)
    with served(root, "--writable") as server:
        where = server.wire.begin("app")
        connection = server.wire.connect()
        connection.putrequest("PATCH", where)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        connection.send(data[:100_000])
        connection.close()
        got = ""
        while got != "0-99999":
            got = server.wire.ask("GET", where).headers["range"]
        assert server.server.stop() == 143
    with served(root, "--writable") as server:
        answer = server.wire.ask("PATCH", where, data[100_000:], {"Content-Range": "100000-299999"})
        assert (answer.status, answer.headers["range"]) == (202, "0-299999")
    whole(root)


def test_the_latest_request_has_the_upload(root):
    data = wire.noise(300_000)
    with served(root, "--writable") as server:
        where = server.wire.begin("app")
        stalled = server.wire.connect()
        stalled.putrequest("PATCH", where)
        stalled.putheader("Content-Length", str(len(data)))
        stalled.endheaders()
        stalled.send(data[:100_000])
        start = 0
        answer = server.wire.ask("GET", where)
        assert answer.status == 204
        start = int(answer.headers["range"].removeprefix("0-"))
        start += 1 if start else 0
        answer = server.wire.ask("PATCH", where, data[start:], {"Content-Range": f"{start}-{len(data) - 1}"})
        assert answer.status == 202
        stalled.close()
        digest = building.digest_of(data)
        assert server.wire.ask("PUT", wire.with_query(where, digest=digest)).status == 201


def test_garbage_collection_beside_a_push(root):
    image = wire.image_of(LAYER_TAR)
    with lamella.Store.open(root) as store, served(root, "--writable") as server:
        asked = server.wire
        where = asked.begin("app")
        asked.ask("PATCH", where, b"half of a blob")
        for blob in image.blobs.values():
            asked.put_blob("app", blob)
        assert store.gc().items == []
        assert asked.ask("GET", where).headers["range"] == "0-13"
        assert asked.put_manifest("app", "1", image.raw).status == 201
        asked.ask("DELETE", where)
        assert store.gc().items == []
        assert store.image("app:1").open("/etc/motd").read() == b"hello\n"
    whole(root)


def test_asking_for_what_is_not_there_holds_nothing(root):
    with served(root, "--writable") as server, lamella.Store.open(root) as store:
        here = server.wire.put_blob("app", b"here")
        for number in range(20):
            digest = building.digest_of(b"%d" % number)
            for path in (f"/v2/app/blobs/{digest}", f"/v2/app/manifests/{digest}"):
                assert server.wire.ask("HEAD", path).status == 404
            assert server.wire.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}").status == 202
        held = [store.catalog.lease_resources(lease.id) for lease in store.catalog.leases()]
        assert held == [{here}]


def test_what_is_given_up_expires(root):
    image = wire.image_of(LAYER_TAR)
    kept = wire.image_of(building.tar(building.file("kept", "kept")))
    with served(root, "--writable", "--expiry", "1") as server:
        asked = server.wire
        for blob in (*image.blobs.values(), *kept.blobs.values()):
            asked.put_blob("app", blob)
        assert asked.put_manifest("app", "1", kept.raw).status == 201
        where = asked.begin("app")
        asked.ask("PATCH", where, b"half of a blob")
        blobs = [root / "blobs" / digest.replace(":", "/") for digest in image.blobs]
        while any(blob.exists() for blob in blobs) or list((root / "ingest").glob("upload-*")):
            time.sleep(0.05)
        assert asked.ask("GET", where).status == 404
        for blob in kept.blobs:
            assert asked.ask("HEAD", f"/v2/app/blobs/{blob}").status == 200
    whole(root)


def test_what_is_pushed_by_digest_is_kept_by_it(root):
    with served(root, "--writable") as server:
        asked = server.wire
        lone = asked.put_image("app", "", LAYER_TAR)
        child = asked.put_image("app", "", LAYER_TAR, architecture="arm64")
        index = {"schemaVersion": 2, "mediaType": wire.INDEX, "manifests": [child.descriptor]}
        assert asked.put_manifest("app", "multi", index, wire.INDEX).status == 201
    with lamella.Store.open(root) as store:
        store.gc()
        names = [record.name for record in store.catalog.names()]
        assert names == ["docker.io/library/app:multi", f"docker.io/library/app@{lone.digest}"]
        assert str(store.image(f"app@{lone.digest}").digest) == lone.digest
        store.remove([f"app@{lone.digest}"])
        assert not store.exists(lone.digest)
    whole(root)


@pytest.mark.parametrize("layer", [b"no tar at all", building.tar(building.file("../../etc/passwd", "x"))])
def test_layers_that_are_none_are_kept_and_never_unpacked(root, layer):
    image = wire.image_of(layer)
    with served(root, "--writable") as server:
        asked = server.wire
        for blob in image.blobs.values():
            asked.put_blob("app", blob)
        answer = asked.put_manifest("app", "1", image.raw)
        assert answer.status == 201
        assert answer.headers["warning"].startswith('299 - "kept, but not as an image')
        assert asked.ask("GET", "/v2/app/manifests/1").body == image.raw
    with lamella.Store.open(root) as store:
        assert list(store.layers.walk()) == []
        with pytest.raises(InvalidInput):
            store.image("app:1")
    whole(root)


def test_a_manifest_that_comes_twice_at_once_is_unpacked_once(root):
    image = wire.image_of(building.tar(building.file("noise", wire.noise(8 << 20))))
    with served(root, "--writable") as server, ThreadPoolExecutor(3) as pool:
        asked = server.wire
        for blob in image.blobs.values():
            asked.put_blob("app", blob)
        answers = pool.map(lambda tag: asked.put_manifest("app", tag, image.raw), ("a", "b", "c"))
        assert [answer.status for answer in answers] == [201, 201, 201]
    whole(root)


def test_blobs_that_were_pruned_are_served(root, disk):
    (disk / "root.tar.xz").write_bytes(lzma.compress(building.tar(building.file("noise", wire.noise(50_000)))))
    with lamella.Store.open(root) as store:  # what is compressed here can be compressed again
        layer = store.import_rootfs(disk / "root.tar.xz", "app:1").manifest.layers[0].digest
        data = store.content.read(layer, limit=1 << 20)
        store.prune(compressed=True)
        assert store.content.stored(layer) is None
        with served(root) as server:
            asked = server.wire
            assert int(asked.ask("HEAD", f"/v2/app/blobs/{layer}").headers["content-length"]) == len(data)
            part = asked.ask("GET", f"/v2/app/blobs/{layer}", headers={"Range": "bytes=50-59"})
            assert (part.status, part.body) == (206, data[50:60])
            assert asked.ask("GET", f"/v2/app/blobs/{layer}").body == data
        assert store.content.stored(layer) is None, "nothing was written"
    whole(root)


def test_memory_does_not_grow_with_blobs(root):
    data = wire.noise(48 << 20)
    with served(root, "--writable") as server:
        asked = server.wire
        asked.put_blob("app", data[:1000])
        before = _peak(server.server.process.pid)
        digest = asked.put_blob("app", data)
        assert asked.ask("GET", f"/v2/app/blobs/{digest}").body == data
        assert _peak(server.server.process.pid) - before < 24 << 20


def _peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10
