"""Pull and push through a proxy that fails on purpose, at every kind of request and at chosen bytes of it.

Whatever happens: what was done is done right (gone on with where it broke), or a typed error says why not; nothing that
was not verified is stored or shown; the store is whole; the next try, with nothing in the way, succeeds; and no other
host has heard of a credential.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import lamella
from lamella.errors import LamellaError
from lamella.registry.access import Access, Retrying
from lamella.registry.credentials import Credentials
from lamella.testing import consistency
from support import building, certificates, registries, serving, wire
from support.fault_proxy import Elsewhere, Fault, FaultProxy, Seen, elsewhere, fault_proxy
from support.needs import needs_tool
from support.tokens import TokenServer, token_server
from support.wire import Wire

pytestmark = needs_tool("docker-registry", "htpasswd")

CHUNK = 256 << 10
BIG = 1_300_000
LAYERS = (
    building.tar(building.directory("etc"), building.file("etc/motd", "hello\n")),
    building.tar(building.file("noise", wire.noise(BIG))),
)
IMAGE = wire.image_of(*LAYERS)
BIGGEST = max(IMAGE.blobs, key=lambda digest: len(IMAGE.blobs[digest]))
SIZE = len(IMAGE.blobs[BIGGEST])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    """A registry with users that has the image as ``app:1``."""
    with registries.docker_registry(tmp_path_factory.mktemp("faults"), auth="htpasswd") as running:
        asked(running.host).put_image_as("app", "1")
        yield running


class Asked(Wire):
    """Debian's registry, asked by hand."""

    def put_image_as(self, repository: str, tag: str) -> None:
        for blob in IMAGE.blobs.values():
            where = self.ask("POST", f"/v2/{repository}/blobs/uploads/").location
            self.ask("PUT", wire.with_query(where, digest=building.digest_of(blob)), blob)
        assert self.put_manifest(repository, tag, IMAGE.raw).status == 201


def asked(host: str) -> Asked:
    return Asked(host, Wire(host).as_user(registries.USER, registries.PASSWORD).headers)


def access(action: str = "", **fields) -> Access:
    """As a user is, who does not wait: not between tries, and not for what stalls."""
    patience = 0.4 if "stall" in action else 30.0
    return Access(
        credentials=Credentials(registries.USER, registries.PASSWORD),
        plain_http=True,
        read_timeout=patience,
        retrying=Retrying(attempts=4, longest_wait=60),
        sleep=lambda _: None,
        **fields,
    )


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, registry) -> Iterator[lamella.Store]:
    """A store with the image, to push from."""
    with lamella.Store.open(tmp_path_factory.mktemp("origin") / "store") as store:
        store.pull(f"{registry.host}/app:1", access=access())
        yield store


def whole(store: lamella.Store) -> None:
    """Nothing in the store is what it should not be, and nobody is at work."""
    assert consistency.problems(store) == []
    assert not store.catalog.leases()
    assert not list((store.root / "ingest").glob("lease-*"))


def has_image(store: lamella.Store, name: str) -> None:
    """The image is here, and is what it was."""
    image = store.image(name)
    assert str(image.digest) == IMAGE.digest
    assert image.open("/etc/motd").read() == b"hello\n"
    assert image.open("/noise").read() == wire.noise(BIG)


def shows_nothing(store: lamella.Store) -> None:
    """A pull that failed has left nothing to be seen, and no blob but those of the image."""
    assert store.catalog.names() == []
    assert store.catalog.documents() == []
    assert {str(blob.digest) for blob in store.content.walk()} <= {*IMAGE.blobs, IMAGE.digest}


# What a fault comes to when it happens once, and when it happens always: "ok" (done all the same), "fail" (a typed
# error), or "any" of them; None is not tried.
EVERYWHERE = [
    ("refuse", [0], "ok", "fail"),
    ("cut-head", [0, 1], "ok", "fail"),
    ("cut-head", [20, 60, 10_000], "any", "any"),  # what came may be an answer, of fewer headers
    ("garbage", [0], "any", "fail"),
    ("flood", [0], "any", "fail"),
    ("loop", [301, 307], "any", "fail"),
    ("status", [408, 429, 500, 502, 504], "ok", None),
    ("status", [503], "ok", "fail"),
    ("status", [400, 403, 416], "any", None),
    *(("status", [code], "any", "fail") for code in (100, 200, 204, 206, 304, 404, 405, 999)),
]
MANIFEST_FAULTS = [
    *EVERYWHERE,
    ("cut", [0, 1, len(IMAGE.raw) // 2, len(IMAGE.raw) - 1], "ok", "fail"),
    ("stall", [0, 1, len(IMAGE.raw) - 1], "ok", "fail"),
    ("corrupt", [0, 1, len(IMAGE.raw) // 2, len(IMAGE.raw) - 1], "fail", "fail"),
    ("truncate", [0, 1, len(IMAGE.raw) - 1], "fail", "fail"),
    ("extend", [1, 1000, 20_000_000], "fail", "fail"),
    ("length", [1, 100_000_000_000], "any", "fail"),
    ("length", [-1, -len(IMAGE.raw)], "fail", "fail"),
    ("no-length", [0], "ok", "ok"),
    ("digest", [0], "fail", "fail"),
    ("type", [0], "any", "any"),  # the document says itself what it is
]


def usual(rows: list, *fine: int, without: str = "") -> list:
    """The rows, without the statuses that are an answer like another one to the request, and without one action."""
    return [row for row in rows if row[0] != without and (row[0] != "status" or row[1][0] not in fine)]


BLOB_FAULTS = [
    *usual(EVERYWHERE, 200, 204, 206),
    ("status", [200, 206, 204], "fail", "fail"),
    ("cut", [0, 1, SIZE // 2, SIZE - 1], "ok", "any"),
    ("stall", [0, 1, SIZE // 2, SIZE - 1], "ok", "any"),
    ("corrupt", [0, 1, SIZE // 2, SIZE - 1], "any", "fail"),
    ("truncate", [0, 1, SIZE // 2, SIZE - 1], "any", "any"),
    ("extend", [1, 1000], "fail", "fail"),
    ("length", [1, 100_000_000_000], "any", "any"),
    ("length", [-1, -SIZE], "any", "any"),
    ("no-length", [0], "ok", "ok"),
    ("digest", [0], "ok", "ok"),
    ("type", [0], "ok", "ok"),
]


def cases(kind: str, rows: list) -> list:
    return [
        pytest.param(kind, action, at, times, expected, id=f"{kind}-{action}-{at}-{name}")
        for action, positions, once, always in rows
        for at in positions
        for times, name, expected in ((1, "once", once), (1000, "always", always))
        if expected is not None
    ]


def attempt(act) -> str:
    """ "ok", or "fail" for a typed error; anything else that is raised is a bug and goes through."""
    try:
        act()
    except LamellaError as error:
        assert error.code
        assert str(error).isprintable()
        assert registries.PASSWORD not in str(error)
        return "fail"
    return "ok"


@pytest.mark.parametrize(
    ("kind", "action", "at", "times", "expected"),
    [*cases("manifest-get", MANIFEST_FAULTS), *cases("blob-get", BLOB_FAULTS)],
)
def test_pulling(registry, tmp_path, kind, action, at, times, expected):
    # The first request of all is asked for a password: the second is the one.
    fault = Fault(kind, action, at, times, 0 if kind == "blob-get" else 1, digest=BIGGEST if kind == "blob-get" else "")
    with fault_proxy(registry.host, fault) as proxy, lamella.Store.open(tmp_path / "store") as store:
        name = f"{proxy.host}/app:1"
        came_to = attempt(lambda: store.pull(name, access=access(action)))
        assert came_to == expected or expected == "any"
        assert fault.times < times, "the fault has happened"
        whole(store)
        if came_to == "fail":
            shows_nothing(store)
            proxy.faults.clear()
            store.pull(name, access=access())
        has_image(store, name)
        whole(store)


@pytest.mark.parametrize("position", [1, CHUNK + 1, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("action", ["cut", "stall"])
def test_a_pull_goes_on_where_it_broke(registry, tmp_path, action, position):
    """Within a run: what came is not asked for again."""
    with fault_proxy(registry.host, Fault("blob-get", action, position, digest=BIGGEST)) as proxy:
        with lamella.Store.open(tmp_path / "store") as store:
            store.pull(f"{proxy.host}/app:1", access=access(action))
            has_image(store, f"{proxy.host}/app:1")
        starts = [start_of(seen) for seen in proxy.seen if seen.kind == "blob-get" and BIGGEST in seen.target]
        assert starts[0] == 0
        assert starts[1] <= position < starts[1] + CHUNK, "a chunk that was not whole is asked for again"


def start_of(seen: Seen) -> int:
    """The first byte that a request asks for."""
    return int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


def test_a_pull_that_failed_goes_on_in_the_next_run(registry, tmp_path):
    half = SIZE // 2
    faults = [Fault("blob-get", "cut", half, digest=BIGGEST), Fault("blob-get", "refuse", times=99, digest=BIGGEST)]
    with fault_proxy(registry.host, *faults) as proxy, lamella.Store.open(tmp_path / "store") as store:
        name = f"{proxy.host}/app:1"
        assert attempt(lambda: store.pull(name, access=access())) == "fail"
        whole(store)
        proxy.faults.clear()
        seen = len(proxy.seen)
        store.pull(name, access=access())
        has_image(store, name)
        asked_for = [s for s in proxy.seen[seen:] if s.kind == "blob-get" and BIGGEST in s.target]
        assert half - CHUNK < start_of(asked_for[0]) <= half


@pytest.mark.parametrize("action", ["range", "no-range", "corrupt", "truncate", "extend", "status"])
def test_lies_about_the_rest_of_a_blob(registry, tmp_path, action):
    """The second half is asked for, and something else comes."""
    faults = [
        Fault("blob-get", "cut", SIZE // 2, digest=BIGGEST),
        Fault("blob-get", action, 200 if action == "status" else 7, digest=BIGGEST),
    ]
    with fault_proxy(registry.host, *faults) as proxy, lamella.Store.open(tmp_path / "store") as store:
        name = f"{proxy.host}/app:1"
        came_to = attempt(lambda: store.pull(name, access=access()))
        if action == "no-range":
            assert came_to == "ok"
        whole(store)
        if came_to == "fail":
            shows_nothing(store)
            proxy.faults.clear()
            store.pull(name, access=access())
        has_image(store, name)


@pytest.mark.parametrize(("wait", "came_to"), [("0", "ok"), ("7", "ok"), ("61", "fail"), ("x", "ok"), ("-1", "ok")])
def test_who_asks_to_wait_is_waited_for(registry, tmp_path, wait, came_to):
    slept: list[float] = []
    patient = Access(
        credentials=Credentials(registries.USER, registries.PASSWORD), plain_http=True, sleep=slept.append,
        retrying=Retrying(attempts=4, first_pause=0.25, longest_wait=60),
    )  # fmt: skip
    fault = Fault("blob-get", "status", 429, headers={"Retry-After": wait}, digest=BIGGEST)
    with fault_proxy(registry.host, fault) as proxy, lamella.Store.open(tmp_path / "store") as store:
        assert attempt(lambda: store.pull(f"{proxy.host}/app:1", access=patient)) == came_to
        if came_to == "ok":
            assert slept == [float(wait) if wait in ("0", "7") else 0.25]


@pytest.fixture(scope="module")
def large(registry) -> wire.Image:
    """An image with a layer that is worth several connections, as ``large:1``."""
    image = wire.image_of(building.tar(building.file("noise", wire.noise(36 << 20))))
    for blob in image.blobs.values():
        where = asked(registry.host).ask("POST", "/v2/large/blobs/uploads/").location
        asked(registry.host).ask("PUT", wire.with_query(where, digest=building.digest_of(blob)), blob)
    assert asked(registry.host).put_manifest("large", "1", image.raw).status == 201
    return image


@pytest.mark.parametrize(
    ("action", "at", "skip", "expected"),
    [("cut", 3 << 20, 1, "ok"), ("refuse", 0, 2, "ok"), ("no-range", 0, 2, "any"), ("corrupt", 9, 3, "any"),
     ("range", 7, 1, "any"), ("truncate", 1000, 2, "any")],
)  # fmt: skip
def test_one_of_several_connections_fails(registry, large, tmp_path, action, at, skip, expected):
    """A large layer comes in ranges over three connections; something happens to one of them."""
    layer = list(large.blobs)[1]
    fault = Fault("blob-get", action, at, skip=skip, digest=layer)
    with fault_proxy(registry.host, fault) as proxy, lamella.Store.open(tmp_path / "store") as store:
        name = f"{proxy.host}/large:1"
        came_to = attempt(lambda: store.pull(name, access=access(connections=3)))
        assert came_to == expected or expected == "any"
        assert fault.times == 0, "the fault has happened"
        if came_to == "fail":
            assert store.catalog.documents() == []
            store.pull(name, access=access(connections=3))
        assert str(store.image(name).digest) == large.digest
        whole(store)


# -- push

BRIEFLY = [
    *(row for row in EVERYWHERE if row[0] != "status"),
    ("status", [429, 500], "ok", None),
    ("status", [503], "ok", "fail"),
    *(("status", [code], "any", "fail") for code in (200, 404, 999)),
]
SENT = [
    *BRIEFLY,
    ("lose-answer", [0], "ok", "any"),
    ("location", [0], "any", "any"),
]
BODY = [
    ("cut-request", [0, 1, SIZE // 2, SIZE - 1], "ok", "fail"),
    ("stall-request", [0, SIZE // 2], "ok", "fail"),
    ("corrupt-request", [0, SIZE // 2, SIZE - 1], "any", "any"),  # what goes on behind the byte is right
]
LOST = [("cut-head", [0, 1], "ok", "any"), ("cut-head", [20, 60, 10_000], "any", "any")]
"""The answer to what was sent: some registries can be asked how far it came."""
MANIFEST_BODY = [
    ("cut-request", [0, 1, len(IMAGE.raw) - 1], "ok", "fail"),
    ("corrupt-request", [0, len(IMAGE.raw) - 1], "any", "fail"),
    ("digest", [0], "any", "any"),
]


@pytest.mark.parametrize(
    ("kind", "action", "at", "times", "expected"),
    [
        *cases("blob-head", usual(BRIEFLY, 200, 404)),
        *cases("upload-post", usual(SENT, 200)),
        *cases("upload-patch", [*usual(SENT, 200, without="cut-head"), *BODY, *LOST]),
        *cases("upload-put", usual(SENT, 200)),
        *cases("manifest-put", [*usual(SENT, 200), *MANIFEST_BODY]),
    ],
)
def test_pushing(registry, origin, request, kind, action, at, times, expected):
    repository = "push/" + building.digest_of(request.node.name.encode())[7:27]
    with elsewhere() as other:
        fault = Fault(kind, action, at, times, 1 if kind == "blob-head" else 0, elsewhere=other.url)
        with fault_proxy(registry.host, fault) as proxy:
            source = f"{registry.host}/app:1"
            target = f"{proxy.host}/{repository}:1"
            came_to = attempt(lambda: origin.push(source, target, access=access(action)))
            whole(origin)
            tagged = asked(registry.host).ask("GET", f"/v2/{repository}/manifests/1", headers={"Accept": wire.MANIFEST})
            assert tagged.status == 404 or tagged.body == IMAGE.raw
            if came_to == "ok":
                assert tagged.status == 200
            assert came_to == expected or expected == "any"
            assert fault.times < times, "the fault has happened"
            proxy.faults.clear()
            origin.push(source, target, access=access())
        assert other.authorizations == []
        is_pushed(registry, repository)


def is_pushed(registry: registries.Registry, repository: str) -> None:
    """The registry has the image, byte by byte."""
    raw = asked(registry.host).ask("GET", f"/v2/{repository}/manifests/1", headers={"Accept": wire.MANIFEST}).body
    assert raw == IMAGE.raw
    for digest, data in IMAGE.blobs.items():
        assert asked(registry.host).ask("GET", f"/v2/{repository}/blobs/{digest}").body == data


@pytest.mark.parametrize("action", ["cut-request", "stall-request"])
def test_a_push_goes_on_where_it_broke(registry, origin, action):
    """What the registry has is not sent again."""
    at = SIZE - 1000
    with fault_proxy(registry.host, Fault("upload-patch", action, at)) as proxy:
        origin.push(f"{registry.host}/app:1", f"{proxy.host}/go/on-{action}:1", access=access(action))
        patches = [s for s in proxy.seen if s.kind == "upload-patch"]
        assert len(patches) == 2
    is_pushed(registry, f"go/on-{action}")


# -- credentials


def secrets_kept(other: Elsewhere) -> None:
    assert other.authorizations == []
    assert not other.said(registries.PASSWORD)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["manifest-get", "blob-get"])
def test_a_redirect_to_another_host_takes_no_credentials(tmp_path, kind, status):
    """The other host has the blobs, as storage behind a registry does: the pull succeeds, and nothing is told."""
    with registries.docker_registry(tmp_path / "r") as open_to_all, elsewhere(open_to_all.host) as other:
        asked(open_to_all.host).put_image_as("app", "1")
        fault = Fault(kind, "redirect", status, 99, elsewhere=other.url)
        with fault_proxy(open_to_all.host, Fault("ping", "basic", times=99), fault) as proxy:
            # It asks for a password first, so that there is one to be taken along.
            proxy.faults.insert(0, Fault("manifest-get", "basic"))
            with lamella.Store.open(tmp_path / "store") as store:
                store.pull(f"{proxy.host}/app:1", access=access())
                has_image(store, f"{proxy.host}/app:1")
            assert any("authorization" in seen.headers for seen in proxy.seen)
        assert other.requests
        secrets_kept(other)


@pytest.mark.parametrize(
    "kind", ["manifest-get", "blob-get", "blob-head", "upload-post", "upload-patch", "upload-put", "manifest-put"]
)
@pytest.mark.parametrize("status", [301, 303, 307, 308])
def test_a_redirect_to_a_host_that_has_nothing(registry, origin, tmp_path, kind, status):
    with elsewhere() as other:
        with fault_proxy(registry.host, Fault(kind, "redirect", status, 99, elsewhere=other.url)) as proxy:
            if kind.endswith("get"):
                with lamella.Store.open(tmp_path / "store") as store:
                    assert attempt(lambda: store.pull(f"{proxy.host}/app:1", access=access())) == "fail"
                    whole(store)
                    shows_nothing(store)
            else:
                target = f"{proxy.host}/redirected/{kind}-{status}:1"
                attempt(lambda: origin.push(f"{registry.host}/app:1", target, access=access()))
                whole(origin)
        secrets_kept(other)


@pytest.mark.parametrize("kind", ["manifest-get", "blob-get", "upload-post", "manifest-put"])
def test_a_realm_on_another_host_gets_no_credentials(registry, origin, tmp_path, kind):
    with elsewhere() as other:
        with fault_proxy(registry.host, Fault(kind, "realm", times=99, elsewhere=other.url)) as proxy:
            if kind.endswith("get"):
                with lamella.Store.open(tmp_path / "store") as store:
                    assert attempt(lambda: store.pull(f"{proxy.host}/app:1", access=access())) == "fail"
                    shows_nothing(store)
            else:
                target = f"{proxy.host}/realm/{kind}:1"
                assert attempt(lambda: origin.push(f"{registry.host}/app:1", target, access=access())) == "fail"
        secrets_kept(other)


@pytest.mark.parametrize("kind", ["upload-post", "upload-patch"])
def test_an_upload_on_another_host_gets_no_credentials(registry, origin, kind):
    """A Location that leads elsewhere may be followed, as uploads to storage are; credentials may not."""
    with elsewhere() as other:
        with fault_proxy(registry.host, Fault(kind, "location", times=99, elsewhere=other.url)) as proxy:
            target = f"{proxy.host}/located/{kind}:1"
            assert attempt(lambda: origin.push(f"{registry.host}/app:1", target, access=access())) == "fail"
        secrets_kept(other)


def test_a_layer_from_elsewhere_gets_no_credentials(registry, tmp_path):
    layer = IMAGE.blobs[BIGGEST]
    with elsewhere() as other:
        document = json.loads(IMAGE.raw)
        document["layers"][1] |= {
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "urls": [f"{other.url}/layer"],
        }
        assert document["layers"][1]["size"] == len(layer)
        assert asked(registry.host).put_manifest("app", "foreign", document).status == 201
        with fault_proxy(registry.host, Fault("blob-get", "status", 404, 99, digest=BIGGEST)) as proxy:
            with lamella.Store.open(tmp_path / "store") as store:
                name = f"{proxy.host}/app:foreign"
                assert attempt(lambda: store.pull(name, access=access(foreign_layers=True))) == "fail"
        secrets_kept(other)


def test_a_token_goes_to_the_registry_alone(tmp_path):
    """Behind a token server: the password goes there, the token to the registry, neither to where blobs are."""
    signer = certificates.self_signed(tmp_path)
    with (
        token_server(signer, {registries.USER: registries.PASSWORD}) as tokens,
        registries.docker_registry(tmp_path / "open") as storage,
        registries.docker_registry(tmp_path / "r", auth="token", tokens=tokens) as registry,
        elsewhere(storage.host) as other,
    ):
        asked(storage.host).put_image_as("app", "1")
        with lamella.Store.open(tmp_path / "one") as store:
            store.pull(f"{storage.host}/app:1", access=access())
            store.push(f"{storage.host}/app:1", f"{registry.host}/app:1", access=access())
        fault = Fault("blob-get", "redirect", 307, 99, elsewhere=other.url)
        with fault_proxy(registry.host, fault) as proxy, lamella.Store.open(tmp_path / "two") as store:
            store.pull(f"{proxy.host}/app:1", access=access())
            has_image(store, f"{proxy.host}/app:1")
            sent = [seen.headers.get("authorization", "") for seen in proxy.seen]
            assert any(text.startswith("Bearer ") for text in sent)
            assert not any(text.startswith("Basic ") for text in sent)
            said = [text.removeprefix("Bearer ") for text in sent if text]
        assert other.requests
        secrets_kept(other)
        assert not any(other.said(token) for token in said)
        assert {request.user for request in tokens.asked} == {registries.USER}


@dataclass
class Guarded:
    """A registry whose token server is behind a proxy that can fail."""

    registry: registries.Registry
    tokens: TokenServer
    proxy: FaultProxy


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    place = tmp_path_factory.mktemp("guarded")
    users = {registries.USER: registries.PASSWORD}
    with token_server(certificates.self_signed(place), users) as tokens:
        with fault_proxy(urlsplit(tokens.realm).netloc) as proxy:
            tokens.realm = f"http://{proxy.host}/token"
            with registries.docker_registry(place / "r", auth="token", tokens=tokens) as running:
                with lamella.Store.open(place / "store") as store:
                    building.layout(place / "layout", LAYERS)
                    store.load(place / "layout", name="app:1")
                    store.push("app:1", f"{running.host}/app:1", access=access())
                yield Guarded(running, tokens, proxy)


TOKEN_FAULTS = [
    *BRIEFLY,
    ("status", [400, 401, 403], "fail", "fail"),
    ("cut", [0, 1, 50], "ok", "fail"),
    ("stall", [0, 50], "ok", "fail"),
    ("truncate", [0, 1, 50], "fail", "fail"),
    ("corrupt", [0, 3, 300], "any", "fail"),
    ("extend", [1, 10_000_000], "fail", "fail"),
    ("type", [0], "ok", "ok"),
    ("redirect", [307], "any", "fail"),
]


@pytest.mark.parametrize("identity", [False, True], ids=["password", "identity"])
@pytest.mark.parametrize(("kind", "action", "at", "times", "expected"), cases("token", usual(TOKEN_FAULTS, 200)))
def test_tokens(guarded, tmp_path, identity, kind, action, at, times, expected):
    """Whether the token server is asked with a password or with a token of its own that lasts."""
    guarded.tokens.refresh_tokens["the identity"] = registries.USER
    known = (
        Credentials(identity_token="the identity") if identity else Credentials(registries.USER, registries.PASSWORD)
    )
    with elsewhere() as other, lamella.Store.open(tmp_path / "store") as store:
        guarded.proxy.faults = [Fault(kind, action, at, times, elsewhere=other.url)]
        name = f"{guarded.registry.host}/app:1"
        came_to = attempt(lambda: store.pull(name, access=replace(access(action), credentials=known)))
        assert came_to == expected or expected == "any"
        whole(store)
        guarded.proxy.faults = []
        if came_to == "fail":
            shows_nothing(store)
            store.pull(name, access=replace(access(), credentials=known))
        assert store.image(name).open("/etc/motd").read() == b"hello\n"
        secrets_kept(other)
        assert not other.said("the identity")
        assert not other.said("the+identity")


def test_resumed_bytes_of_another_blob_are_not_stored(registry, tmp_path):
    """What an earlier run left is spoilt on the disk: the blob is not what it should be, and is fetched anew."""
    faults = [
        Fault("blob-get", "cut", SIZE // 2, digest=BIGGEST),
        Fault("blob-get", "refuse", times=99, digest=BIGGEST),
    ]
    with fault_proxy(registry.host, *faults) as proxy, lamella.Store.open(tmp_path / "store") as store:
        name = f"{proxy.host}/app:1"
        assert attempt(lambda: store.pull(name, access=access())) == "fail"
        left = [path for path in (store.root / "ingest").rglob("*") if path.is_file() and path.stat().st_size > 1000]
        assert left
        for path in left:
            spoil(path)
        proxy.faults.clear()
        if attempt(lambda: store.pull(name, access=access())) == "fail":
            whole(store)
            shows_nothing(store)
            store.pull(name, access=access())
        has_image(store, name)
        whole(store)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- lamella serve at the other end


@pytest.fixture(scope="module")
def served(real_disk) -> Iterator[serving.Served]:
    with serving.served(real_disk / "serve-faults", "--writable") as running:
        yield running
    with lamella.Store.open(running.root) as store:
        store.gc()
        whole(store)


@pytest.mark.parametrize(
    ("kind", "action", "at"),
    [
        ("upload-post", "refuse", 0), ("upload-post", "lose-answer", 0), ("upload-post", "status", 429),
        ("upload-patch", "refuse", 0), ("upload-patch", "cut-request", 1), ("upload-patch", "cut-request", SIZE // 2),
        ("upload-patch", "cut-request", SIZE - 1), ("upload-patch", "stall-request", SIZE // 2),
        ("upload-patch", "lose-answer", 0), ("upload-patch", "corrupt-request", 7), ("upload-put", "lose-answer", 0),
        ("upload-put", "refuse", 0), ("manifest-put", "lose-answer", 0), ("manifest-put", "cut-request", 100),
        ("blob-head", "refuse", 0), ("blob-head", "cut-head", 1),
    ],
)  # fmt: skip
def test_pushing_to_lamella(served, origin, registry, tmp_path, request, kind, action, at):
    """Each image is another one, or it would be there already."""
    layer = building.tar(building.file("noise", wire.noise(BIG, len(request.node.name))), building.file("x", str(at)))
    building.layout(tmp_path / "layout", [layer], tag=None, config={"author": request.node.name})
    fault = Fault(kind, action, at)
    with lamella.Store.open(tmp_path / "store") as store, fault_proxy(served.host, fault) as proxy:
        (loaded,) = store.load(tmp_path / "layout", name="app:1")
        target = f"{proxy.host}/faults/{kind}-{action}-{at}:1"
        if attempt(lambda: store.push("app:1", target, access=access(action))) == "fail":
            assert action == "corrupt-request"
            proxy.faults.clear()
            store.push("app:1", target, access=access())
        assert fault.times == 0, "the fault has happened"
        proxy.faults.clear()
        with lamella.Store.open(tmp_path / "other") as other:
            image = other.pull(target, access=access())
            assert image.digest == loaded.descriptor.digest
            assert image.open("/x").read() == str(at).encode()
    with lamella.Store.open(served.root) as here:
        assert here.image(target.partition("/")[2]).open("/x").read() == str(at).encode()
