"""Pulling and pushing by the protocol of 2013, against an index and registries that keep its rules."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

import pytest

from lamella.errors import AccessDenied, Authentication, Integrity, InvalidInput, LamellaError, NotFound, Unavailable
from lamella.registry.access import Access, Retrying
from lamella.registry.credentials import CredentialFiles, Credentials
from lamella.registry.v1.client import Client
from lamella.registry.v1.push import Upload, push
from lamella.registry.v1.source import V1Source
from lamella.registry.v1.wire import Wire
from lamella.spec import media, v1image
from lamella.spec.documents import ImageConfig, Manifest
from lamella.spec.limits import Limits
from lamella.spec.progress import NO_PROGRESS, Cancelled
from lamella.spec.reference import Reference
from lamella.transfer.copy import copy_images
from support import building
from support.noted import Noted
from support.registry_v1 import serving, simple, world

IDS = tuple(hashlib.sha256(b"v1 %d" % n).hexdigest() for n in range(3))
LAYERS = (
    building.tar(building.file("a", "one")),
    gzip.compress(building.tar(building.file("b", "two")), mtime=0),
    building.tar(building.file("c", "c" * 100_000)),
)


def record(n: int, **more: object) -> dict[str, object]:
    parent = {"parent": IDS[n - 1]} if n else {}
    command = {"Cmd": ["/bin/sh", "-c", f"echo {n}"]}
    return {"id": IDS[n], **parent, "created": "2013-06-13T14:03:50.821769-07:00", "container_config": command, **more}


def filled(*registries: str, **options):
    """A world with three images, each the parent of the next, of which the last is tagged ``latest``."""
    here = world(*registries, **options)
    stack = here.__enter__()
    for n in range(3):
        stack.add(record(n), LAYERS[n], tag="latest" if n == 2 else "")
    return here, stack


@pytest.fixture
def make(request):
    """Makes worlds, which end with the test."""

    def build(*registries: str, **options):
        context, here = filled(*registries, **options)
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return here

    return build


def client(here, *, name: str = "demo", user: str = "", password: str = "", attempts: int = 3, **limits) -> Client:
    access = Access(
        credentials=Credentials(user, password) if user else None,
        retrying=Retrying(attempts=attempts),
        sleep=lambda _: None,
    )
    return Client(Reference.parse(f"{here.index}/{name}"), access, limits=Limits(**limits))


def pulled(here, disk, **options) -> V1Source:
    tag = options.pop("tag", "latest")
    checkers = options.pop("checkers", None)
    progress = options.pop("progress", NO_PROGRESS)
    place = disk / "scratch"
    place.mkdir(exist_ok=True)
    return V1Source(client(here, **options), place, tag=tag, checkers=checkers, progress=progress)


def refused(here, disk, **options) -> LamellaError:
    with pytest.raises(LamellaError) as caught:
        pulled(here, disk, **options).close()
    return caught.value


def read(source, descriptor) -> bytes:
    with closing(source.open_blob(descriptor)) as reader:
        return b"".join(iter(lambda: reader.read(7000), b""))


class TestPull:
    def test_a_tag_brings_the_image_and_all_its_ancestors(self, make, disk):
        here = make()
        with closing(pulled(here, disk)) as source:
            offers = source.offers()
            assert [offer.names for offer in offers] == [(), (), (f"{here.index}/demo:latest",)]
            assert [offer.parent for offer in offers] == [None, *(offer.descriptor.digest for offer in offers[:2])]
            manifest = Manifest.parse(read(source, offers[2].descriptor))
            assert [read(source, layer) for layer in manifest.layers] == list(LAYERS)
            assert [layer.media_type for layer in manifest.layers] == [
                media.layer("none"), media.layer("gzip"), media.layer("none")]  # fmt: skip
            config = ImageConfig.parse(read(source, manifest.config))
            assert [step.created_by for step in config.history] == [f"/bin/sh -c echo {n}" for n in range(3)]
            kept = v1image.kept_images(manifest)
            assert [image.raw for image in kept] == [here.images[identity].json for identity in IDS]
            assert [layer.annotations[v1image.V1_CHECKSUM] for layer in manifest.layers] == [
                here.checksums[identity] for identity in IDS]  # fmt: skip

    def test_it_goes_into_a_store(self, make, store, disk):
        here = make()
        from lamella.transfer.load import load

        with store.lease("pull") as lease, closing(pulled(here, disk)) as source:
            load(store.graph, store.content, lease, source, cleanup=lambda written: None)
        store.sync_layout()
        image = store.image(f"{here.index}/demo")
        assert image.open("c").read() == b"c" * 100_000
        assert len(list(image.ancestors())) == 3

    def test_parents_are_fetched_before_children(self, make, disk):
        here = make()
        pulled(here, disk).close()
        assert [one.path.split("/")[3] for one in here.asked("registry", "GET", "/layer$")] == list(IDS)

    def test_all_tags_or_one(self, make, disk):
        here = make()
        here.tags |= {"base": IDS[0], "again": IDS[2]}
        with closing(pulled(here, disk, tag=None)) as source:
            assert [sorted(name.rpartition(":")[2] for name in offer.names) for offer in source.offers()] == [
                ["base"], [], ["again", "latest"]]  # fmt: skip
        assert len(here.asked(path="/json$")) == len(here.asked(path="/layer$")) == 3
        (disk / "other").mkdir()
        with closing(V1Source(client(here), disk / "other", tag="base")) as source:
            assert len(source.offers()) == 1

    def test_a_tag_that_is_not_there(self, make, disk):
        error = refused(make(), disk, tag="nope")
        assert isinstance(error, NotFound)
        assert error.reason == "Tag nope not found in repository demo"

    def test_names_of_more_than_two_parts_are_none(self, make, disk):
        assert refused(make(), disk, name="a/b/c").code == "v1-name"


class TestWhoGetsWhat:
    def test_credentials_go_to_the_index_and_tokens_to_the_registries(self, make, disk):
        here = make(user="ann", password="secret")
        pulled(here, disk, user="ann", password="secret").close()
        assert all(one.headers["authorization"].startswith("Basic ") for one in here.asked("index", path="/images$"))
        asked = here.asked("registry", path="/(images|repositories)/")
        assert asked
        assert all(one.headers["authorization"].startswith("Token signature=") for one in asked)
        assert all("Basic" not in str(one.headers) for one in here.asked("registry"))

    def test_registries_get_no_credentials_where_the_index_gives_no_tokens(self, make, disk):
        here = make(with_tokens=False, user="ann", password="secret")
        pulled(here, disk, user="ann", password="secret").close()
        assert here.asked("registry")
        assert not any("authorization" in one.headers for one in here.asked("registry"))

    def test_the_session_cookie_is_given_back_and_only_there(self, make, disk):
        here = make("one", "two")
        here.endpoint_header = " , ".join(here.endpoints)
        here.fail["GET .*/json"] = [404]
        pulled(here, disk).close()
        for name in ("one", "two"):
            sessions = {s.partition("-")[2] for s in here.sessions if s.startswith(name)}
            for one in here.asked(name):
                cookie = one.headers.get("cookie", "").removeprefix("session=")
                assert not cookie or cookie in sessions
        assert all("cookie" not in one.headers for one in here.asked("index"))
        assert here.asked("one", path="/ancestry")[0].headers.get("cookie")

    def test_a_used_up_token_is_replaced_by_another(self, make, disk):
        here = make()
        with closing(client(here)) as mine:
            mine.images()
            here.tokens.clear()
            assert mine.tags() == {"latest": IDS[2]}
        assert len(here.asked("index", path="/images$")) == 2

    @pytest.mark.parametrize("user", ["", "eve"])
    def test_without_the_right_credentials_it_is_refused(self, make, disk, user):
        error = refused(make(user="ann", password="secret"), disk, user=user, password="guess" if user else "")
        assert isinstance(error, Authentication)
        assert "guess" not in str(error)

    def test_a_redirected_layer_takes_no_secrets_along(self, make, disk, request):
        here = make()
        context = serving(here, "elsewhere")
        elsewhere = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        here.with_tokens = True
        here.fail[f"GET /v1/images/{IDS[2]}/layer"] = [f"http://{elsewhere}/v1/stored"]
        error = refused(here, disk)
        asked = here.asked("elsewhere", path="/stored")
        assert asked
        assert all("authorization" not in one.headers and "cookie" not in one.headers for one in asked)
        assert isinstance(error, Authentication)

    @pytest.mark.parametrize("redirect", [301, 302, 307])
    @pytest.mark.parametrize("call", ["GET .*/images$", "GET .*/tags", "GET .*/ancestry", "GET .*/json",
                                      "PUT .*/demo/$", "PUT .*/json", "PUT .*/tags/", "PUT .*/images$"])  # fmt: skip
    def test_no_redirected_call_takes_secrets_along(self, call, redirect):
        with world(user="ann", password="secret", redirect=redirect) as here, serving(here, "elsewhere") as elsewhere:
            here.add(record(0), LAYERS[0], tag="latest")
            here.fail[call] = [f"http://{elsewhere}/v1/x"]
            with closing(client(here, user="ann", password="secret")) as mine, pytest.raises(LamellaError):
                if call.startswith("PUT"):
                    push(mine, uploads(), {"latest": IDS[2]})
                else:
                    assert [mine.tags(), mine.ancestry(IDS[0]), mine.record(IDS[0])]
        (asked,) = here.asked("elsewhere")
        assert asked.path == "/v1/x"
        assert "authorization" not in asked.headers
        assert "cookie" not in asked.headers

    def test_a_standalone_registry_is_its_own_index_and_gets_the_credentials(self, make, disk):
        here = make(standalone=True, user="ann", password="secret")
        with closing(pulled(here, disk, user="ann", password="secret")) as source:
            assert len(source.offers()) == 3
        assert all(one.headers["authorization"].startswith("Basic ") for one in here.asked(path="/layer$"))

    def test_plain_http_is_for_this_machine_alone_and_only_if_it_sent_us(self):
        with world() as here:
            wire = Wire(Access())
            assert wire.base(here.index) == f"http://{here.index}/v1"
            before = len(here.log)
            with pytest.raises(Unavailable):
                wire.base(here.endpoints[0], named_by="index.example.com")
            with pytest.raises(Unavailable):
                Wire(Access(tls_verify=True)).base(here.endpoints[0])
            assert len(here.log) == before
            assert Wire(Access(tls_verify=False)).base(here.endpoints[0], named_by="index.example.com")
            wire.close()

    def test_nobody_else_is_spoken_to_in_plain_http_because_tls_failed(self):
        """What would be sent in plain HTTP shows at a proxy; at port 1 of this machine nobody speaks TLS."""
        with world() as here:
            proxies = {"http": f"http://{here.index}"}
            with pytest.raises(Unavailable):
                Wire(Access(proxies=proxies)).base("0.0.0.0:1")
            assert here.log == []
            assert Wire(Access(proxies=proxies, tls_verify=False)).base("0.0.0.0:1") == "http://0.0.0.0:1/v1"
            assert len(here.log) == 1

    def test_over_tls(self, make, disk, server_certificate):
        here = make(tls=server_certificate, user="ann", password="secret")
        for host in (here.index, *here.endpoints):
            (disk / "certs.d" / host).mkdir(parents=True)
            (disk / "certs.d" / host / "ca.crt").write_bytes(server_certificate.authority.read_bytes())
        access = Access(credentials=Credentials("ann", "secret"), certificates=(disk / "certs.d",))
        (disk / "scratch").mkdir()
        with closing(V1Source(Client(Reference.parse(f"{here.index}/demo"), access), disk / "scratch")) as source:
            assert len(source.offers()) == 3

    def test_a_certificate_that_is_not_trusted_is_told_nothing(self, make, server_certificate):
        here = make(tls=server_certificate, user="ann", password="secret")
        access = Access(credentials=Credentials("ann", "secret"), certificates=(), retrying=Retrying(attempts=1))
        with closing(Client(Reference.parse(f"{here.index}/demo"), access)) as mine:
            with pytest.raises(Unavailable) as caught:
                mine.images()
        assert caught.value.code == "registry-certificate"
        assert here.log == []

    @pytest.mark.parametrize("host", ["http://x", "a/b", "user@host", "a b", "x:port", "-x", "[:::]", "x:70000"])
    def test_registries_that_are_no_hosts_are_refused(self, make, disk, host):
        here = make()
        here.endpoint_header = host
        error = refused(here, disk)
        assert isinstance(error, Unavailable)
        assert error.code == "registry-protocol"


class TestEndpoints:
    def test_the_next_registry_is_asked_when_one_is_gone(self, make, disk):
        here = make("one", "two")
        here.endpoint_header = f"127.0.0.1:1,{here.endpoints[1]}"
        with closing(pulled(here, disk)) as source:
            assert len(source.offers()) == 3
        assert not here.asked("one")

    def test_the_next_registry_is_asked_when_one_has_not_got_it(self, make, disk):
        here = make("one", "two")
        here.fail["GET .*/layer"] = [404]
        pulled(here, disk).close()
        assert len(here.asked("two", path="/layer")) == 1

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(400, Unavailable), (401, Authentication), (403, AccessDenied), (404, NotFound), (201, Unavailable),
         (500, Unavailable), (503, Unavailable)],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["images$", "tags", "ancestry", "json", "layer"])
    def test_every_status_at_every_call_is_a_typed_error(self, make, disk, path, status, kind):
        here = make()
        here.fail[f"GET .*{path}"] = [status] * 20
        error = refused(here, disk)
        assert isinstance(error, kind)
        assert str(status) in error.reason

    @pytest.mark.parametrize("text", ["HTTP", "200", "X-Docker-Endpoints", "27.0.0.1:", "X-Docker-Token", "ignature="])
    def test_half_a_header_is_no_header(self, make, disk, text):
        """Half the name of a registry, or none, would be another host that tokens and images are sent to."""
        here = make(user="ann", password="secret")
        here.cut_headers["/images$"] = [text.encode()]
        pulled(here, disk, user="ann", password="secret").close()
        assert len(here.asked("index", path="/images$")) == 2
        assert [one.path for one in here.asked("index") if "repositories" not in one.path] == ["/v1/_ping"]

    @pytest.mark.parametrize("statuses", [[404], [403], [401, 401], [500] * 3])
    @pytest.mark.parametrize("path", ["tags", "layer"])
    def test_a_registry_that_refuses_gives_way_to_the_next(self, make, disk, path, statuses):
        here = make("one", "two")
        here.fail[f"GET .*/{path}"] = list(statuses)
        pulled(here, disk).close()
        assert here.asked("two", path=f"/{path}")

    @pytest.mark.parametrize(("first", "second", "kind"), [(404, 403, AccessDenied), (403, 404, AccessDenied),
                                                           (404, 404, NotFound)])  # fmt: skip
    def test_when_all_refuse_the_first_that_is_more_than_not_found_counts(self, make, disk, first, second, kind):
        here = make("one", "two")
        here.fail["GET .*/tags"] = [first, second]
        assert type(refused(here, disk)) is kind

    def test_what_breaks_is_told_and_not_that_there_was_no_tls(self, make, disk):
        here = make()
        here.fail["_ping"] = [0] * 20
        error = refused(here, disk)
        assert error.code == "registry-connection"
        assert "SSL" not in str(error)

    def test_a_length_of_thousands_of_digits_is_none(self, make, disk):
        here = make()
        here.fail["GET .*/tags"] = [401]
        here.fail_headers = {"Content-Length": "9" * 5000, "Connection": "close"}
        pulled(here, disk).close()

    @pytest.mark.parametrize("path", ["_ping", "images$", "tags", "ancestry", "json", "layer"])
    def test_passing_failures_pass(self, make, disk, path):
        here = make()
        here.fail[f"GET .*{path}"] = [503, 0]
        pulled(here, disk).close()

    def test_which_statuses_pass(self, make, disk):
        here = make()
        here.fail["GET .*/tags"] = [408, 429, 500, 502, 503, 504]
        pulled(here, disk, attempts=7).close()
        assert len(here.asked(path="/tags")) == 7

    @pytest.mark.parametrize("path", ["images$", "tags", "ancestry", "json"])
    def test_a_document_that_breaks_off_is_asked_for_again(self, make, disk, path):
        here = make()
        here.broken[f"GET .*{path}"] = [0, 20]
        pulled(here, disk).close()
        assert here.broken == {f"GET .*{path}": []}
        here.broken = {f"GET .*{path}": [1] * 20}
        assert refused(here, disk).code == "registry-connection"
        assert len(here.broken[f"GET .*{path}"]) == 17


class TestNames:
    """Where a name leads, and what the repository is called there."""

    @pytest.mark.parametrize(
        ("name", "host", "remote"),
        [("busybox", "index.docker.io", "busybox"), ("fooo/bar", "index.docker.io", "fooo/bar"),
         ("library/debian", "index.docker.io", "debian"),
         ("docker.io/docker/docker", "index.docker.io", "docker/docker"),
         ("ubuntu-12.04-base", "index.docker.io", "ubuntu-12.04-base"),
         ("127.0.0.1:8000/privatebase", "127.0.0.1:8000", "privatebase"),
         ("host.example:5000/private/moonbase", "host.example:5000", "private/moonbase"),
         ("localhost/me/app", "localhost", "me/app")],
    )  # fmt: skip
    def test_hosts_and_repositories(self, name, host, remote):
        found = Client(Reference.parse(name), Access())
        assert (found.host, found.remote) == (host, remote)

    @pytest.mark.parametrize("name", ["https://github.com/docker/docker", "docker/Docker", "docker///docker"])
    def test_names_that_are_none(self, name):
        with pytest.raises(InvalidInput):
            Client(Reference.parse(name), Access())

    def test_registries_have_no_bare_names(self, make, disk):
        here = make()
        pulled(here, disk).close()
        assert {one.path for one in here.asked("index", path="repositories")} == {"/v1/repositories/demo/images"}
        assert {one.path for one in here.asked("registry", path="tags")} == {"/v1/repositories/library/demo/tags"}

    def test_several_registries_in_one_header_with_odd_spacing(self, make, disk):
        here = make("one", "two")
        here.endpoint_header = f"  {here.endpoints[0]} ,,{here.endpoints[1]},"
        with closing(client(here)) as mine:
            assert {entry.id for entry in mine.images()} == set(IDS)
            assert mine.endpoints == tuple(here.endpoints)
            assert mine.ancestry(IDS[1]) == [IDS[1], IDS[0]]
            assert mine.record(IDS[0]).image.raw == here.images[IDS[0]].json
            for call in (mine.ancestry, mine.record, mine.open_layer):
                with pytest.raises(NotFound):
                    call("0" * 64)

    def test_of_very_many_registries_some_are_enough(self, make):
        here = make()
        here.endpoint_header = ",".join(f"127.0.0.1:{port}" for port in range(1, 100))
        with closing(client(here)) as mine:
            mine.images()
            assert len(mine.endpoints) == 16


def calls(here) -> list[str]:
    """What was asked, in the words of the protocol's documents; ids and probes left out."""
    texts = [f"{one.server} {one.method} {one.path.removeprefix('/v1/')}" for one in here.log]
    numbers = {identity: f"<{n}>" for n, identity in enumerate(IDS)}
    for identity, number in numbers.items():
        texts = [text.replace(identity, number) for text in texts]
    return [text for text in texts if not text.endswith("_ping")]


class TestCalls:
    """Each call as it was made in 2013: the method, the path, the headers, the body, one after the other."""

    def test_a_pull(self, make, disk):
        here = make(user="ann", password="secret")
        pulled(here, disk, user="ann", password="secret").close()
        assert calls(here) == [
            "index GET repositories/demo/images", "registry GET repositories/library/demo/tags",
            "registry GET images/<2>/ancestry", "registry GET images/<2>/json", "registry GET images/<1>/json",
            "registry GET images/<0>/json", "registry GET images/<0>/layer", "registry GET images/<1>/layer",
            "registry GET images/<2>/layer",
        ]  # fmt: skip
        assert [one.headers.get("x-docker-token") for one in here.asked("index", path="images")] == ["true"]
        assert not any("x-docker-token" in one.headers for one in here.asked("registry"))
        assert not any(one.body or "content-type" in one.headers for one in here.log)
        assert not any("authorization" in one.headers for one in here.asked(path="_ping"))

    def test_a_repository_with_a_namespace(self, make, disk):
        here = make(remote="ann/demo")
        pulled(here, disk, name="ann/demo").close()
        assert calls(here)[:2] == ["index GET repositories/ann/demo/images", "registry GET repositories/ann/demo/tags"]

    def test_every_token_is_given_back(self, make):
        here = make(more_tokens=["signature=1,access=read", "signature=2,access=read"])
        with closing(client(here)) as mine:
            mine.tags()
        (asked,) = here.asked("registry", path="tags")
        assert asked.headers["authorization"].startswith("Token signature=")
        assert asked.headers["authorization"].endswith(",signature=1,access=read,signature=2,access=read")

    def test_tokens_that_are_replaced_are_used_no_longer(self, make):
        here = make()
        with closing(client(here)) as mine:
            mine.images()
            mine.images()
            mine.tags()
        (asked,) = here.asked("registry", path="tags")
        assert asked.headers["authorization"].count("signature=") == 1

    def test_a_push(self):
        with world(user="ann", password="secret") as here:
            with closing(client(here, user="ann", password="secret")) as mine:
                push(mine, uploads()[::-1], {"latest": IDS[2], "1": IDS[2]})
            one_image = ["PUT images/<{}>/json", "PUT images/<{}>/layer", "PUT images/<{}>/checksum"]
            assert calls(here) == [
                "index PUT repositories/demo/",
                *(f"registry {call.format(n)}" for n in range(3) for call in one_image),
                "registry PUT repositories/library/demo/tags/latest", "registry PUT repositories/library/demo/tags/1",
                "index PUT repositories/demo/images",
            ]  # fmt: skip
            asked = dict(zip(calls(here), here.asked(method="PUT"), strict=True))
        assert all(one.headers["authorization"].startswith("Basic ") for one in here.asked("index", "PUT"))
        assert all(one.headers["authorization"].startswith("Token ") for one in here.asked("registry", "PUT"))
        first, last = asked["index PUT repositories/demo/"], asked["index PUT repositories/demo/images"]
        assert first.headers["x-docker-token"] == "true"
        assert last.headers["x-docker-endpoints"] == here.endpoints[0]
        layer = asked["registry PUT images/<2>/layer"]
        assert layer.headers["transfer-encoding"] == "chunked"
        assert layer.headers["content-type"] == "application/octet-stream"
        tag = asked["registry PUT repositories/library/demo/tags/latest"]
        assert json.loads(tag.body) == IDS[2]
        for one in (first, last, tag, asked["registry PUT images/<0>/json"]):
            assert one.headers["content-type"] == "application/json"
        assert [item["id"] for item in json.loads(last.body)] == list(IDS)
        assert not any("Tag" in item for item in json.loads(last.body))

    def test_the_checksums_of_a_push(self):
        """The simple one is of the bytes that were sent; the image's is the TarSum where there is one."""
        first, *rest = uploads()
        with world() as here, closing(client(here)) as mine:
            push(mine, [replace(first, tarsum="tarsum+sha256:" + "1" * 64), *rest], {"latest": IDS[2]})
            sent = here.asked(method="PUT", path="/checksum")
            simples = [simple(here.images[key].json, here.images[key].layer) for key in IDS]
        assert [one.headers["x-docker-checksum-payload"] for one in sent] == simples
        stated = ["tarsum+sha256:" + "1" * 64, *simples[1:]]
        assert [one.headers["x-docker-checksum"] for one in sent] == stated
        assert [item["checksum"] for item in here.concluded[0]] == stated

    @pytest.mark.parametrize("status", [201, 204])
    def test_what_the_index_may_answer_to_checksums(self, status):
        with world() as here, closing(client(here)) as mine:
            here.fail["PUT .*/images$"] = [status]
            push(mine, uploads(), {"latest": IDS[2]})

    @pytest.mark.parametrize("call", ["/demo/$", "<0>/json", "<0>/layer", "<0>/checksum", "tags/latest"])
    def test_an_answer_without_content_is_not_an_accepted_upload(self, call):
        with world() as here, closing(client(here)) as mine:
            here.fail["PUT .*" + call.replace("<0>", IDS[0])] = [204]
            with pytest.raises(Unavailable) as caught:
                push(mine, uploads(), {"latest": IDS[2]})
        assert "204" in caught.value.reason

    @pytest.mark.parametrize("status", [400, 409])
    @pytest.mark.parametrize("text", ["Image already exists", "Image depends on a non existing parent"])
    def test_only_what_is_there_already_is_passed_over(self, status, text):
        with world() as here, closing(client(here)) as mine:
            here.fail[f"PUT .*{IDS[0]}/json"] = [status]
            here.fail_body = json.dumps({"error": text}).encode()
            here.add(record(0), LAYERS[0])
            if "already" in text:
                assert push(mine, uploads(), {}).present == IDS[:1]
                return
            with pytest.raises(Unavailable) as caught:
                push(mine, uploads(), {})
            assert text in caught.value.reason

    def test_credentials_may_come_from_a_dockercfg(self, make, disk):
        here = make(user="ann", password="secret")
        auth = base64.b64encode(b"ann:secret").decode()
        (disk / ".dockercfg").write_text(json.dumps({f"https://{here.index}/v1/": {"auth": auth, "email": "a@b"}}))
        access = Access(files=CredentialFiles((), (disk / ".dockercfg",)), retrying=Retrying(attempts=1))
        with closing(Client(Reference.parse(f"{here.index}/demo"), access)) as mine:
            assert mine.tags() == {"latest": IDS[2]}

    def test_another_index_gets_its_own_credentials_and_no_others(self, make, disk):
        here = make(user="ann", password="secret")
        packed = {name: {"auth": base64.b64encode(f"{name}:secret".encode()).decode()} for name in ("ann", "hub")}
        for auths in ({"docker.io": packed["hub"]}, {"docker.io": packed["hub"], here.index: packed["ann"]}):
            (disk / "auth.json").write_text(json.dumps({"auths": auths}))
            access = Access(files=CredentialFiles((disk / "auth.json",)), retrying=Retrying(attempts=1))
            with closing(Client(Reference.parse("demo"), access, index=here.index)) as mine:
                if here.index in auths:
                    assert mine.tags() == {"latest": IDS[2]}
                    continue
                with pytest.raises(Authentication):
                    mine.images()
                assert not any("authorization" in one.headers for one in here.log)

    def test_an_identity_token_is_no_password(self, make):
        here = make()
        access = Access(credentials=Credentials(identity_token="secret"), retrying=Retrying(attempts=1))
        with closing(Client(Reference.parse(f"{here.index}/demo"), access)) as mine:
            mine.images()
        assert not any("authorization" in one.headers for one in here.log)


class TestHostile:
    @pytest.mark.parametrize("body", [b"", b"{}", b"[7]", b'["../../x"]', b"[]", json.dumps([IDS[0]]).encode(),
                                      json.dumps([IDS[2], IDS[2]]).encode()])  # fmt: skip
    def test_ancestries_that_are_none(self, make, disk, body):
        here = make()
        here.ancestries[IDS[2]] = json.loads(body or b'""')
        assert isinstance(refused(here, disk), (InvalidInput, Integrity))

    @pytest.mark.parametrize("ids", [(2, 1, 2), (2, 1, 0, 1), (1, 0), ()])
    def test_an_ancestry_begins_with_the_image_and_has_no_circle(self, make, ids):
        here = make()
        here.ancestries[IDS[2]] = [IDS[n] for n in ids]
        with closing(client(here)) as mine, pytest.raises(Integrity) as caught:
            mine.ancestry(IDS[2])
        assert caught.value.code == "v1-ancestry"

    @pytest.mark.parametrize("listed", ["x", {}, [None], [[]], [{}], [{"id": None}], [{"id": "../../x"}],
                                        [{"id": IDS[0], "checksum": 5}], [{"id": IDS[0], "Tag": []}]])  # fmt: skip
    def test_an_index_that_lists_what_is_no_image(self, make, disk, listed):
        assert isinstance(refused(make(listed=listed), disk), InvalidInput)

    @pytest.mark.parametrize("listed", [[], [{"id": IDS[0], "checksum": None, "Tag": None, "more": {}}]])
    def test_an_index_that_lists_little_is_no_hindrance(self, make, disk, listed):
        pulled(make(listed=listed), disk).close()

    def test_an_ancestry_that_is_not_what_the_records_say(self, make, disk):
        here = make()
        here.ancestries[IDS[2]] = [IDS[2], IDS[0]]
        error = refused(here, disk)
        assert error.code == "v1-ancestry"
        assert IDS[2] in str(error)

    def test_a_child_without_its_parent_is_refused(self, make, disk):
        here = make()
        here.ancestries[IDS[2]] = [IDS[2], IDS[1]]
        assert refused(here, disk).code == "v1-ancestry"
        del here.ancestries[IDS[2]], here.images[IDS[0]]
        assert isinstance(refused(here, disk), NotFound)

    def test_the_record_of_another_image(self, make, disk):
        here = make()
        here.images[IDS[1]].json = here.images[IDS[0]].json
        error = refused(here, disk)
        assert error.code == "v1-ancestry" or error.code == "v1-wrong-image"

    def test_tags_and_lists_with_ids_that_are_none(self, make, disk):
        here = make()
        here.tags["latest"] = "../../etc/passwd"
        assert refused(here, disk).code == "v1-id"
        assert not here.asked(path="passwd")

    def test_more_ancestors_than_the_limit_are_not_fetched(self, make, disk):
        here = make()
        assert refused(here, disk, layers=2).code == "layer-count"
        assert not here.asked(path="/json$")

    def test_documents_over_the_limit(self, make, disk):
        assert refused(make(), disk, document_bytes=50).code == "document-size"
        assert refused(make(), disk, layer_bytes=5000).code == "layer-size"


class TestLayers:
    def test_a_broken_download_goes_on_where_it_broke(self, make, disk):
        here = make()
        here.cut = [len(LAYERS[0]), len(LAYERS[1]), 30_000, 20_000]
        with closing(pulled(here, disk)) as source:
            assert len(source.offers()) == 3
        ranges = [one.headers.get("range") for one in here.asked(path=f"{IDS[2]}/layer")]
        assert ranges == [None, "bytes=30000-", "bytes=50000-"]

    def test_a_registry_that_cannot_resume_is_asked_from_the_start(self, make, disk):
        here = make(ranges=False)
        here.cut = [len(LAYERS[0]), len(LAYERS[1]), 30_000]
        with closing(pulled(here, disk)) as source:
            manifest = Manifest.parse(read(source, source.offers()[2].descriptor))
            assert read(source, manifest.layers[2]) == LAYERS[2]
        assert [one.headers.get("range") for one in here.asked(path=f"{IDS[2]}/layer")] == [None, None]

    def test_a_registry_that_sends_a_part_at_a_time_is_asked_for_the_rest(self, make, disk):
        here = make(part=20_000)
        here.cut = [len(LAYERS[0]), len(LAYERS[1]), 50_000]
        with closing(pulled(here, disk)) as source:
            manifest = Manifest.parse(read(source, source.offers()[2].descriptor))
            assert read(source, manifest.layers[2]) == LAYERS[2]
        ranges = [one.headers.get("range") for one in here.asked(path=f"{IDS[2]}/layer")]
        assert ranges == [None, "bytes=50000-", "bytes=70000-", "bytes=90000-"]

    def test_a_registry_that_sends_all_of_it_again_is_no_hindrance(self, make, disk):
        here = make(part=0)
        here.cut = [len(LAYERS[0]), len(LAYERS[1]), 50_000]
        with closing(pulled(here, disk)) as source:
            manifest = Manifest.parse(read(source, source.offers()[2].descriptor))
            assert read(source, manifest.layers[2]) == LAYERS[2]
        ranges = [one.headers.get("range") for one in here.asked(path=f"{IDS[2]}/layer")]
        assert ranges == [None, "bytes=50000-"]

    @pytest.mark.parametrize("said", ["bytes 40000-102399/102400", "bytes */102400", "", f"bytes {'9' * 5000}-1/2"])
    def test_a_part_that_is_another_is_refused(self, make, disk, said):
        here = make(content_range=said)
        here.cut = [len(LAYERS[0]), len(LAYERS[1]), 50_000]
        assert refused(here, disk).code == "registry-protocol"

    def test_one_that_always_breaks_is_given_up(self, make, disk):
        here = make()
        here.cut = [0] * 20
        error = refused(here, disk)
        assert isinstance(error, Unavailable)
        assert len(here.asked(path="/layer")) == 3

    def test_a_layer_that_came_damaged_is_fetched_again(self, make, disk):
        here = make()
        here.damage = 1
        pulled(here, disk).close()
        assert len(here.asked(path=f"{IDS[0]}/layer")) == 2

    def test_one_that_stays_damaged_is_an_error(self, make, disk):
        here = make()
        here.damage = 20
        error = refused(here, disk)
        assert isinstance(error, Integrity)
        assert error.code == "v1-checksum"
        assert IDS[0] in str(error)

    def test_a_record_that_was_changed_is_noticed(self, make, disk):
        here = make()
        here.images[IDS[1]].json = json.dumps(record(1, author="eve"), separators=(",", ":")).encode()
        error = refused(here, disk)
        assert (error.code, IDS[1] in str(error)) == ("v1-checksum", True)

    @pytest.mark.parametrize("header", ["X-Docker-Checksum", "X-Docker-Checksum-Payload"])
    def test_checksums_in_headers_count_too(self, make, disk, header):
        here = make()
        here.checksums = dict.fromkeys(IDS, "")
        here.images[IDS[1]].headers[header] = "sha256:" + "0" * 64
        assert refused(here, disk).code == "v1-checksum"

    def test_other_checksums_are_for_checkers(self, make, disk):
        here = make()
        here.checksums[IDS[1]] = "tarsum+sha256:" + "1" * 64
        pulled(here, disk).close()
        seen = []

        def check(raw: bytes, file) -> str:
            seen.append((raw, file.read()))
            return "tarsum+sha256:" + "2" * 64

        error = refused(here, disk, checkers={"tarsum": check})
        assert error.code == "v1-checksum"
        assert seen == [(here.images[IDS[1]].json, LAYERS[1])] * 2

    @pytest.mark.parametrize("text", ["sha256:", "sha256:" + "A" * 64, "sha256:12"])
    def test_a_malformed_checksum_is_not_a_right_one(self, make, disk, text):
        here = make()
        here.checksums[IDS[1]] = text
        error = refused(here, disk)
        assert (error.code, IDS[1] in str(error)) == ("v1-checksum", True)

    @pytest.mark.parametrize("other", ["", "sha256:" + "0" * 64])
    def test_an_image_that_is_listed_twice_has_every_checksum_of_both(self, make, disk, other):
        """The index lists an image once for each of its tags, and not each time with its checksum."""
        here = make()
        here.checksums[IDS[1]] = "sha256:" + "0" * 64
        here.listed = [{"id": IDS[1], "checksum": here.checksums[IDS[1]]}, {"id": IDS[1], "checksum": other}]
        assert refused(here, disk).code == "v1-checksum"

    @pytest.mark.parametrize("text", [None, "", "md5:" + "0" * 32])
    def test_what_cannot_be_verified_is_told_and_not_kept(self, make, disk, text):
        """None: the index does not list the image that the tag leads to."""
        here = make()
        here.checksums[IDS[2]] = text or ""
        if text is None:
            here.listed = [{"id": identity, "checksum": here.checksums[identity]} for identity in IDS[:2]]
        noted = Noted()
        with closing(pulled(here, disk, progress=noted)) as source:
            manifest = Manifest.parse(read(source, source.offers()[2].descriptor))
        assert [IDS[2][:12] in note for note in noted.notes if "could not be verified" in note] == [True]
        kept = [v1image.V1_CHECKSUM in layer.annotations for layer in manifest.layers]
        assert kept == [True, True, False]

    @pytest.mark.parametrize("layer", [LAYERS[2][:50_000], b"<html>Service unavailable</html>"])
    def test_what_cannot_be_verified_is_a_whole_tar_at_least(self, make, disk, layer):
        here = make()
        here.checksums = dict.fromkeys(IDS, "")
        here.images[IDS[2]].layer = layer
        error = refused(here, disk)
        assert isinstance(error, Integrity)
        assert IDS[2] in str(error)

    def test_an_empty_checksum_is_none(self, make, disk):
        here = make()
        here.checksums = dict.fromkeys(IDS, "")
        with closing(pulled(here, disk)) as source:
            manifest = Manifest.parse(read(source, source.offers()[2].descriptor))
            assert all(v1image.V1_CHECKSUM not in layer.annotations for layer in manifest.layers)

    def test_a_broken_compression_is_an_error_without_checksums_too(self, make, disk):
        here = make()
        here.checksums = dict.fromkeys(IDS, "")
        here.images[IDS[1]].layer = LAYERS[1][:-20]
        error = refused(here, disk)
        assert isinstance(error, Integrity)
        assert IDS[1] in str(error)


def uploads() -> list[Upload]:
    images = [json.dumps(record(n), separators=(",", ":")).encode() for n in range(3)]
    return [
        Upload(v1image.V1Image.parse(raw), lambda layer=layer: io.BytesIO(layer), len(layer))
        for raw, layer in zip(images, LAYERS, strict=True)
    ]


class TestStopping:
    class Reporter:
        """Keeps what has begun and not ended; raises when ``stop`` says so."""

        def __init__(self, stop):
            self.open, self.stop = {}, stop

        def start(self, key, action, *, total=None, unit="bytes"):
            self.open[key] = action

        def advance(self, key, amount):
            if self.stop == "cancel":
                raise Cancelled("enough")

        def done(self, key, outcome="done"):
            self.open.pop(key)

        def note(self, text):
            pass

    @pytest.mark.parametrize("why", ["cancel", "failure"])
    def test_a_pull_ends_what_it_began(self, make, disk, why):
        here = make()
        if why == "failure":
            here.fail["GET .*/layer"] = [403]
        reporter = self.Reporter(why)
        (disk / "scratch").mkdir()
        with pytest.raises((Cancelled, AccessDenied)):
            V1Source(client(here), disk / "scratch", tag="latest", progress=reporter)
        assert reporter.open == {}

    @pytest.mark.parametrize("why", ["cancel", "failure"])
    def test_a_push_ends_what_it_began_and_tags_nothing(self, why):
        with world() as here:
            if why == "failure":
                here.fail["PUT .*/checksum"] = [403]
            reporter = self.Reporter(why)
            with closing(client(here)) as mine, pytest.raises((Cancelled, AccessDenied)):
                push(mine, uploads(), {"latest": IDS[2]}, progress=reporter)
            assert reporter.open == {}
            assert here.tags == {}


class TestPush:
    def test_what_is_pushed_can_be_pulled(self, disk):
        with world(user="ann", password="secret") as here:
            with closing(client(here, user="ann", password="secret")) as mine:
                done = push(mine, uploads()[::-1], {"latest": IDS[2], "1": IDS[2], "base": IDS[0]})
            assert done.sent == IDS
            assert here.tags == {"latest": IDS[2], "1": IDS[2], "base": IDS[0]}
            assert [here.images[key].layer for key in IDS] == list(LAYERS)
            assert all(stored.complete for stored in here.images.values())
            assert here.announced == [[{"id": IDS[0], "Tag": "base"}, {"id": IDS[1]},
                                       {"id": IDS[2], "Tag": "latest"}, {"id": IDS[2], "Tag": "1"}]]  # fmt: skip
            assert {item["id"]: item["checksum"] for item in here.concluded[0]} == {
                key: simple(here.images[key].json, here.images[key].layer) for key in IDS}  # fmt: skip
            (final,) = here.asked("index", "PUT", "/images$")
            assert final.headers["x-docker-endpoints"] == here.endpoints[0]
            with closing(pulled(here, disk, tag="1", user="ann", password="secret")) as source:
                assert len(source.offers()) == 3

    def test_parents_go_first_and_what_is_there_is_not_sent_again(self):
        with world() as here:
            here.add(record(0), LAYERS[0])
            with closing(client(here)) as mine:
                done = push(mine, uploads()[::-1], {"latest": IDS[2]})
            assert (done.sent, done.present) == (IDS[1:], IDS[:1])
            assert not here.asked(method="PUT", path=f"{IDS[0]}/layer")
            assert "chunked" in here.asked(method="PUT", path=f"{IDS[1]}/layer")[0].headers["transfer-encoding"]

    def test_every_tag_is_of_its_image_alone_and_shared_ancestors_are_sent_once(self):
        """Two children of one image, each with two tags, and none for what is below them."""
        other = hashlib.sha256(b"v1 other").hexdigest()
        raw = json.dumps({**record(2), "id": other}).encode()
        sibling = Upload(v1image.V1Image.parse(raw), lambda: io.BytesIO(LAYERS[2]), len(LAYERS[2]))
        tags = {"b": other, "a": IDS[2], "b2": other, "a2": IDS[2]}
        with world() as here, closing(client(here)) as mine:
            push(mine, [sibling, *uploads()[::-1]], tags)
        sent = [one.path.split("/")[3] for one in here.asked(method="PUT", path="/json$")]
        assert sorted(sent) == sorted([*IDS, other])
        assert sent[:2] == list(IDS[:2])
        put = [(one.path.rpartition("/")[2], json.loads(one.body)) for one in here.asked(method="PUT", path="/tags/")]
        assert put == list(tags.items())

    @pytest.mark.parametrize("status", [0, 503, 403])
    def test_every_layer_that_was_opened_is_closed(self, status):
        opened = []

        def opening(layer: bytes):
            opened.append(io.BytesIO(layer))
            return opened[-1]

        mine = [replace(one, open_layer=partial(opening, layer)) for one, layer in zip(uploads(), LAYERS, strict=True)]
        with world() as here, closing(client(here)) as to:
            here.fail[f"PUT .*{IDS[1]}/layer"] = [status]
            with suppress(AccessDenied):
                push(to, mine, {"latest": IDS[2]})
        assert len(opened) == (7 if status != 403 else 5)
        assert all(reader.closed for reader in opened)

    def test_every_registry_of_the_index_gets_it(self):
        with world("one", "two") as here, closing(client(here)) as mine:
            push(mine, uploads(), {"latest": IDS[2]})
            assert [one.server for one in here.asked(method="PUT", path="/tags/")] == ["one", "two"]

    def test_a_layer_is_sent_again_whole_when_the_connection_broke(self):
        with world() as here:
            here.fail[f"PUT /v1/images/{IDS[2]}/layer"] = [0, 503]
            with closing(client(here)) as mine:
                push(mine, uploads(), {"latest": IDS[2]})
            assert here.images[IDS[2]].layer == LAYERS[2]

    @pytest.mark.parametrize("call", ["<0>/json", "<0>/layer", "<0>/checksum", "tags/latest"])
    def test_a_used_up_token_is_replaced_by_one_for_pushing(self, call):
        """The answer that would have begun a session was lost, and the token with it."""
        with world() as here, closing(client(here)) as mine:
            here.fail["PUT .*" + call.replace("<0>", IDS[0])] = [401]
            push(mine, uploads(), {"latest": IDS[2]})
            assert here.tags == {"latest": IDS[2]}
        assert [one.path for one in here.asked("index", path="repositories")] == [
            *["/v1/repositories/demo/"] * 2, "/v1/repositories/demo/images"]  # fmt: skip

    @pytest.mark.parametrize("redirect", [301, 302, 307, 308])
    @pytest.mark.parametrize("place", ["http://{}/v1/repositories/demo/", "/v1/repositories/demo/"])
    def test_the_index_may_send_the_announcement_elsewhere(self, redirect, place):
        with world(redirect=redirect) as here:
            here.fail["PUT /v1/repositories/demo/$"] = [place.format(here.index)]
            with closing(client(here)) as mine:
                push(mine, uploads(), {})
            assert len({one.body for one in here.asked("index", "PUT", "/$")}) == 1
            assert len(here.asked("index", "PUT", "/$")) == 2

    def test_an_index_that_redirects_without_end(self):
        with world(redirect=302) as here:
            here.fail["PUT /v1/repositories/demo/$"] = ["/v1/repositories/demo/"] * 50
            with closing(client(here)) as mine, pytest.raises(Unavailable) as caught:
                push(mine, uploads(), {})
            assert caught.value.code == "registry-redirects"

    @pytest.mark.parametrize(
        ("call", "status", "kind"),
        [(f"{IDS[1]}/json", 500, Unavailable), (f"{IDS[1]}/json", 400, Unavailable), ("layer", 403, AccessDenied),
         ("layer", 500, Unavailable), ("checksum", 400, Unavailable), ("tags/latest", 401, Authentication),
         ("/demo/$", 401, Authentication), ("/demo/images", 404, NotFound)],
    )  # fmt: skip
    def test_refusals_are_typed_and_nothing_is_tagged_before_all_is_there(self, call, status, kind):
        with world() as here:
            here.fail[f"PUT .*{call}"] = [status] * 20
            with closing(client(here)) as mine, pytest.raises(kind) as caught:
                push(mine, uploads(), {"latest": IDS[2]})
            assert str(status) in caught.value.reason
            if "images" not in call:
                assert here.tags == {}

    @pytest.mark.parametrize("tag", ["", "../..", "a?b", "a/b", "a@sha256:" + "0" * 64, "-a", "a" * 129])
    def test_a_tag_that_is_none_is_refused_first(self, tag):
        with world() as here, closing(client(here)) as mine:
            with pytest.raises(InvalidInput):
                push(mine, uploads(), {"latest": IDS[2], tag: IDS[0]})
            assert here.asked() == []

    def test_a_parent_that_is_not_pushed_and_a_tag_of_nothing_are_refused_first(self):
        with world() as here, closing(client(here)) as mine:
            with pytest.raises(NotFound) as caught:
                push(mine, uploads()[1:], {})
            assert caught.value.code == "v1-parent-missing"
            with pytest.raises(InvalidInput):
                push(mine, uploads()[:1], {"latest": IDS[2]})
            assert here.log == []


def test_from_one_registry_to_another(disk):
    """What was pulled is an image source like any other."""
    from lamella.formats.oci_layout_sink import OciLayoutSink

    context, here = filled()
    try:
        with closing(pulled(here, disk)) as source:
            copy_images(source, OciLayoutSink(disk / "layout"))
    finally:
        context.__exit__(None, None, None)
    assert (disk / "layout/index.json").exists()
