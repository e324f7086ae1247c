"""What the client does with what servers say: retries, redirects, credentials, certificates, limits."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import threading
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from lamella.errors import (
    AccessDenied,
    Authentication,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from lamella.registry.access import Access, Retrying
from lamella.registry.auth import Authenticator
from lamella.registry.client import Call, Registry
from lamella.registry.credentials import CredentialFiles, Credentials
from lamella.registry.login import forget_credentials, store_credentials
from lamella.registry.repository import Repository
from lamella.registry.source import RegistrySource, find
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.limits import Limits
from lamella.spec.media import OCI_LAYER, OCI_MANIFEST
from lamella.spec.reference import Reference
from support import wire
from support.needs import needs_tool
from support.scripted import Reply, scripted

SECRET = "s3cr3t-word"
CREDENTIALS = Credentials("ann", SECRET)


class Pauses(list[float]):
    """Waits for nothing and remembers how long it was to be."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def access(**fields) -> Access:
    return Access(plain_http=True, sleep=fields.pop("sleep", Pauses()), **fields)


def layer(data: bytes) -> Descriptor:
    return Descriptor.of(OCI_LAYER, data)


def read_all(reader) -> bytes:
    try:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))
    finally:
        reader.close()


def source_at(server, used: Access) -> RegistrySource:
    return RegistrySource(Repository(Registry(server.host, used), "some/image"), ())


# -- trying again


def test_busy_servers_are_asked_again_after_as_long_as_they_say():
    replies = [Reply(429, headers={"Retry-After": "7"}), Reply(503), Reply(502), Reply(200, b"{}")]
    pauses = Pauses()
    with scripted(lambda asked: replies.pop(0)) as server, Registry(server.host, access(sleep=pauses)) as client:
        assert client.call(Call("GET", "x")).body == b"{}"
    assert pauses == [7.0, 1.0, 2.0]


def test_a_server_that_is_busy_for_too_long_is_an_error_at_once():
    date = formatdate(4_000_000_000, usegmt=True)
    for text in ("999", date):
        with scripted(lambda asked, text=text: Reply(429, headers={"Retry-After": text})) as server:
            with Registry(server.host, access()) as client, pytest.raises(Unavailable) as caught:
                client.call(Call("GET", "x"))
        assert caught.value.code == "registry-rate-limit"
        assert len(server.asked) == 1


def test_a_server_that_stays_busy_is_an_error_in_the_end():
    pauses = Pauses()
    with scripted(lambda asked: Reply(500)) as server:
        used = access(sleep=pauses, retrying=Retrying(attempts=3))
        with pytest.raises(Unavailable) as caught:
            find(Reference.parse(f"{server.host}/a/b:1"), used)
    assert caught.value.code == "registry-error"
    assert len(server.asked) == 3
    assert pauses == [0.5, 1.0]


def test_broken_connections_are_made_again():
    replies = [Reply(cut=-1), Reply(200, b"0123456789", cut=3), Reply(200, b"0123456789")]
    with scripted(lambda asked: replies.pop(0)) as server, Registry(server.host, access()) as client:
        assert client.call(Call("GET", "x")).body == b"0123456789"


def test_a_host_that_is_not_there_is_not_asked_again():
    pauses = Pauses()
    with Registry("127.0.0.1:9", access(sleep=pauses)) as client, pytest.raises(Unavailable) as caught:
        client.call(Call("GET", "x"))
    assert caught.value.code == "registry-unreachable"
    assert pauses == []


def test_a_server_that_says_nothing_is_given_up():
    used = access(read_timeout=0.05, retrying=Retrying(attempts=2))
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Registry(f"127.0.0.1:{silent.getsockname()[1]}", used) as client, pytest.raises(Unavailable) as caught:
            client.call(Call("GET", "x"))
    assert caught.value.code == "registry-timeout"


# -- blobs that go on


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_blob_that_is_cut_again_and_again_comes_whole(ranges):
    data = wire.noise(1_000_000)
    sent = []

    def answer(asked):
        start = 0
        if ranges and "range" in asked.headers:
            start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
        rest = data[start:]
        cut = 300_000 if ranges else 300_000 * (len(sent) + 1)
        sent.append(min(cut, len(rest)))
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return Reply(206 if start else 200, rest, headers, cut=cut if cut < len(rest) else None)

    with scripted(answer) as server, source_at(server, access()) as source:
        assert read_all(source.open_blob(layer(data))) == data
        assert read_all(source.open_blob_at(layer(data), 999_000)) == data[999_000:]
    if ranges:
        assert sum(sent) < len(data) + 4 * 300_000


def test_a_large_blob_comes_over_several_connections():
    data = wire.noise(40 << 20)
    broken: list[bool] = []

    def answer(asked):
        start, end = (int(n or len(data) - 1) for n in asked.headers["range"].removeprefix("bytes=").split("-"))
        headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
        breaks = start >= 8 << 20 and not broken  # one of them, once
        broken.extend([True] * breaks)
        return Reply(206, data[start : end + 1], headers, cut=1000 if breaks else None)

    with scripted(answer) as server, source_at(server, access(connections=3)) as source:
        assert read_all(source.open_blob(layer(data))) == data
    assert len(server.asked) == 6
    with scripted(lambda asked: Reply(200, data)) as server, source_at(server, access(connections=3)) as source:
        assert read_all(source.open_blob(layer(data))) == data
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(200, b"x" * 99), "size-mismatch"),
        (Reply(200, b"x" * 101), "size-mismatch"),
        (Reply(206, b"x" * 50, {"Content-Range": "bytes 40-89/100"}), "range-mismatch"),
        (Reply(206, b"x" * 50, {"Content-Range": "bytes 50-99/101"}), "range-mismatch"),
        (Reply(206, b"x" * 50), "range-mismatch"),
    ],
)
def test_blobs_of_another_size_or_place_than_announced_are_refused(reply, code):
    with scripted(lambda asked: reply) as server, source_at(server, access()) as source:
        with pytest.raises(Integrity) as caught:
            read_all(source.open_blob_at(layer(b"x" * 100), 50))
    assert caught.value.code == code


def test_documents_over_the_limit_are_refused():
    with scripted(lambda asked: Reply(200, b" " * 2000, {"Content-Type": OCI_MANIFEST})) as server:
        with pytest.raises(ResourceExhausted) as caught:
            find(Reference.parse(f"{server.host}/a/b:1"), access(), limits=Limits(document_bytes=1000))
    assert caught.value.code == "document-size"


# -- what is verified


def test_a_document_is_what_its_digest_says():
    image = wire.image_of(b"layer")
    replies = {"Content-Type": OCI_MANIFEST}
    by_digest = f"a/b@{Digest.of(b'another')}"
    with scripted(lambda asked: Reply(200, image.raw, replies)) as server:
        with pytest.raises(Integrity) as caught:
            find(Reference.parse(f"{server.host}/{by_digest}"), access())
        assert caught.value.code == "digest-mismatch"
    stated = {**replies, "Docker-Content-Digest": str(Digest.of(b"another"))}
    with scripted(lambda asked: Reply(200, image.raw, stated)) as server:
        with pytest.raises(Integrity):
            find(Reference.parse(f"{server.host}/a/b:1"), access())


def test_a_tag_and_a_digest_verify_each_other():
    image = wire.image_of(b"layer")

    def answer(asked):
        here = image.digest if asked.path.endswith(image.digest) else str(Digest.of(b"newer"))
        if asked.path.endswith("/gone"):
            return Reply(404)
        return Reply(200, image.raw, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": here})

    with scripted(answer) as server:
        for tag in ("1", "gone"):
            with pytest.raises(Integrity) as caught:
                find(Reference.parse(f"{server.host}/a/b:{tag}@{image.digest}"), access())
            assert caught.value.code == "tag-mismatch"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, Authentication, "auth-scheme"),
        (403, AccessDenied, "registry-denied"),
        (404, NotFound, "manifest-not-found"),
        (405, Unsupported, "registry-unsupported"),
        (400, InvalidInput, "registry-refused"),
        (418, Unavailable, "registry-error"),
    ],
)
def test_what_a_registry_refuses_is_typed_and_says_why(status, kind, code):
    body = json.dumps({"errors": [{"code": "DENIED", "message": "because\x1b[31m\nof that"}]}).encode()
    with scripted(lambda asked: Reply(status, body)) as server, pytest.raises(kind) as caught:
        find(Reference.parse(f"{server.host}/a/b:1"), access())
    assert caught.value.code == code
    assert status == 401 or "because\\x1b[31m\\nof that" in str(caught.value)


# -- where credentials go


def challenge(realm: str) -> Reply:
    return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s",scope="repository:a/b:pull"'})


def basic(asked) -> Reply:
    if "authorization" not in asked.headers:
        return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    return Reply(200, b"{}")


def test_no_credentials_go_to_where_a_registry_redirects():
    data = b"the layer"
    with scripted(lambda asked: Reply(200, data)) as elsewhere:

        def answer(asked):
            found = basic(asked)
            return Reply(307, headers={"Location": f"{elsewhere.url}/data"}) if found.status == 200 else found

        with scripted(answer) as server, source_at(server, access(credentials=CREDENTIALS)) as source:
            assert read_all(source.open_blob(layer(data))) == data
        assert len(server.with_credentials()) == 1
        assert len(elsewhere.asked) == 1
        assert not elsewhere.with_credentials()


def test_a_host_that_a_registry_redirects_to_gets_no_answer_to_its_challenge():
    with scripted(basic) as elsewhere:
        with scripted(lambda asked: Reply(307, headers={"Location": f"{elsewhere.url}/x"})) as server:
            with source_at(server, access(credentials=CREDENTIALS)) as source, pytest.raises(Authentication):
                read_all(source.open_blob(layer(b"x")))
        assert not elsewhere.with_credentials()


def test_no_credentials_go_to_an_upload_location_elsewhere():
    data = b"a blob"
    with scripted(lambda asked: Reply(201)) as elsewhere:

        def answer(asked):
            found = basic(asked)
            if found.status != 200:
                return found
            return Reply(202, headers={"Location": f"{elsewhere.url}/up"}) if asked.method == "POST" else Reply(404)

        with scripted(answer) as server:
            from lamella.registry.sink import RegistrySink

            repository = Repository(Registry(server.host, access(credentials=CREDENTIALS)), "a/b", push=True)
            with RegistrySink(repository) as sink:
                sink.write_blob(layer(data), io.BytesIO(data))
        assert [asked.body for asked in elsewhere.asked] == [data]
        assert not elsewhere.with_credentials()


def test_no_credentials_go_to_a_token_server_that_the_registry_may_not_name():
    with scripted(lambda asked: Reply(200, b'{"token": "t"}'), "127.0.0.2") as elsewhere:
        with scripted(lambda asked: challenge(f"{elsewhere.url}/token")) as server:
            with Registry(server.host, access(credentials=CREDENTIALS)) as client:
                with pytest.raises(Authentication) as caught:
                    client.call(Call("GET", "x"))
        assert caught.value.code == "realm-refused"
        assert elsewhere.asked == []
        with scripted(lambda asked: challenge(f"{elsewhere.url}/token")) as server:
            named = access(credentials=CREDENTIALS, realms=frozenset({"127.0.0.2"}))
            with Registry(server.host, named) as client, pytest.raises(Authentication):
                client.call(Call("GET", "x"))
        assert len(elsewhere.with_credentials()) >= 1


def test_a_token_server_on_the_same_host_gets_them_and_others_are_asked_without():
    def with_token(asked):
        return Reply(200, b"{}") if asked.headers.get("authorization") == "Bearer t" else challenge(realm)

    for address, credentials in (("127.0.0.1", CREDENTIALS), ("127.0.0.2", None)):
        with scripted(lambda asked: Reply(200, b'{"token": "t"}'), address) as tokens:
            realm = f"{tokens.url}/token"
            with scripted(with_token) as server, Registry(server.host, access(credentials=credentials)) as client:
                assert client.call(Call("GET", "x", frozenset({"repository:a/b:pull"}))).status == 200
                assert client.call(Call("GET", "y", frozenset({"repository:a/b:pull"}))).status == 200
        assert len(tokens.asked) == 1
        assert bool(tokens.with_credentials()) == (credentials is not None)
        assert "scope=repository%3Aa%2Fb%3Apull" in tokens.asked[0].path


def test_plain_http_to_another_machine_is_refused_wherever_it_is_named():
    for location in ("http://192.0.2.1/x", "http://registry.example/x"):
        with scripted(lambda asked, at=location: Reply(307, headers={"Location": at})) as server:
            with Registry(server.host, access()) as client, pytest.raises(Unavailable) as caught:
                client.call(Call("GET", "x"))
        assert caught.value.code == "registry-insecure"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/", "http://[bad", "http://user:pw@x/"])
def test_redirects_to_what_is_no_http_address_are_refused(location):
    with scripted(lambda asked: Reply(302, headers={"Location": location})) as server:
        with Registry(server.host, access()) as client, pytest.raises(Unavailable) as caught:
            client.call(Call("GET", "x"))
    assert caught.value.code == "registry-protocol"


def test_redirects_end():
    with scripted(lambda asked: Reply(302, headers={"Location": asked.path})) as server:
        with Registry(server.host, access()) as client, pytest.raises(Unavailable) as caught:
            client.call(Call("GET", "x"))
    assert caught.value.code == "registry-redirects"


def test_a_foreign_layer_is_fetched_when_asked_for_without_credentials():
    data = b"elsewhere"
    with scripted(lambda asked: Reply(200, data)) as elsewhere:
        foreign = replace(layer(data), urls=(f"{elsewhere.url}/layer",))
        answer = {True: Reply(404), False: Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})}
        with scripted(lambda asked: answer["authorization" in asked.headers]) as server:
            with source_at(server, access(credentials=CREDENTIALS)) as source, pytest.raises(Unsupported) as caught:
                read_all(source.open_blob(foreign))
            assert caught.value.code == "foreign-layer"
            with source_at(server, access(credentials=CREDENTIALS, foreign_layers=True)) as source:
                assert read_all(source.open_blob(foreign)) == data
        assert not elsewhere.with_credentials()


def test_secrets_show_nowhere():
    credentials = Credentials("ann", SECRET, SECRET)
    used = access(credentials=credentials)
    assert SECRET not in repr(credentials) + repr(used)
    with scripted(lambda asked: Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})) as server:
        with Registry(server.host, used) as client, pytest.raises(Authentication) as caught:
            client.call(Call("GET", "x"))
    assert SECRET not in str(caught.value) + repr(caught.value.__dict__)
    with pytest.raises(InvalidInput) as malformed:
        Credentials.parse(SECRET)
    assert SECRET not in str(malformed.value)


# -- tokens


def test_tokens_are_used_until_shortly_before_they_end_and_refreshed():
    now = [0.0]
    fetched = []

    def fetch(request, limit):
        fetched.append(request)
        return 200, json.dumps({"access_token": f"t{len(fetched)}", "expires_in": 100}).encode()

    auth = Authenticator("r.example", lambda path: None, fetch, clock=lambda: now[0])
    scopes = frozenset({"repository:a/b:pull"})
    assert auth.header(scopes, "a/b") is None
    lines = ['Bearer realm="https://auth.example/token",service="r.example"']
    assert auth.challenged(lines, scopes, "a/b", None) == "Bearer t1"
    assert auth.header(scopes, "a/b") == "Bearer t1"
    now[0] = 91.0
    assert auth.header(scopes, "a/b") == "Bearer t2"
    assert auth.header(frozenset({"repository:other:pull"}), "other") == "Bearer t3"
    assert auth.challenged(lines, scopes, "a/b", "Bearer t2") == "Bearer t4"


def test_an_identity_token_is_sent_in_a_form():
    sent = []

    def fetch(request, limit):
        sent.append(request)
        return 200, b'{"access_token": "t"}'

    auth = Authenticator("r.example", lambda path: Credentials(identity_token=SECRET), fetch)
    auth.challenged(['Bearer realm="https://r.example/token"'], frozenset({"s"}), "a", None)
    (request,) = sent
    assert request.method == "POST"
    assert b"grant_type=refresh_token" in request.body
    assert SECRET.encode() in request.body
    assert request.authorization is None
    assert SECRET not in repr(request)


def test_docker_hubs_own_token_server_gets_its_credentials():
    sent = []

    def fetch(request, limit):
        sent.append(request)
        return 200, b'{"token": "t"}'

    auth = Authenticator("docker.io", lambda path: CREDENTIALS, fetch)
    auth.challenged(['Bearer realm="https://auth.docker.io/token"'], frozenset(), "library/x", None)
    assert sent[0].authorization == CREDENTIALS.basic


@pytest.mark.parametrize("status", [307, 308])
def test_an_identity_token_is_not_sent_to_where_a_token_server_redirects(status):
    with scripted(lambda asked: Reply(200, b'{"access_token": "t"}')) as elsewhere:
        with scripted(lambda asked: Reply(status, headers={"Location": f"{elsewhere.url}/token"})) as tokens:
            with scripted(lambda asked: challenge(f"{tokens.url}/token")) as server:
                used = access(credentials=Credentials(identity_token=SECRET))
                with Registry(server.host, used) as client, pytest.raises(Unavailable) as caught:
                    client.call(Call("GET", "x"))
        assert caught.value.code == "registry-protocol"
        assert elsewhere.asked == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": "a\\nb"}', b'{"token": 7}'])
def test_a_token_server_that_gives_no_token_is_an_error(body):
    auth = Authenticator("r.example", lambda path: None, lambda request, limit: (200, body))
    with pytest.raises(Unavailable) as caught:
        auth.challenged(['Bearer realm="https://r.example/token"'], frozenset(), "a", None)
    assert caught.value.code == "token-server"


# -- TLS


@needs_tool("openssl", "docker-registry")
def test_certificates_of_certs_d_are_trusted_and_no_others(tls_registry, tmp_path):
    host = tls_registry.host
    with Registry(host, Access(certificates=())) as client, pytest.raises(Unavailable) as caught:
        client.ping()
    assert caught.value.code == "registry-certificate"
    with Registry(host, Access(certificates=(), tls_verify=False)) as client:
        client.ping()
        assert client.base() == f"https://{host}"
    place = tmp_path / "certs.d"
    (place / host).mkdir(parents=True)
    (place / host / "ca.crt").write_bytes(tls_registry.authority.read_bytes())
    with Registry(host, Access(certificates=(tmp_path / "none", place))) as client:
        client.ping()
    (place / host / "ca.crt").write_text("no certificate")
    with Registry(host, Access(certificates=(place,))) as client, pytest.raises(InvalidInput) as malformed:
        client.ping()
    assert malformed.value.code == "certificate-invalid"


@needs_tool("docker-registry")
def test_plain_http_is_found_out_on_this_machine_and_refused_when_verifying_is_asked_for(registry):
    with Registry(registry.host, Access()) as client:
        client.ping()
        assert client.base() == f"http://{registry.host}"
    with Registry(registry.host, Access(tls_verify=True)) as client, pytest.raises(Unavailable) as caught:
        client.ping()
    assert caught.value.code == "registry-tls"


# -- credentials in files and helpers


def test_login_keeps_what_else_is_in_the_file_and_closes_it_to_others(tmp_path):
    path = tmp_path / "deep/auth.json"
    files = CredentialFiles((path,))
    store_credentials(files, "r.example", "", CREDENTIALS)
    path.write_text(json.dumps({**json.loads(path.read_text()), "other": 1}))
    path.chmod(0o644)
    store_credentials(files, "r.example", "team", Credentials("bob", "x:y"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["other"] == 1
    assert files.find("r.example", "team/app") == Credentials("bob", "x:y")
    assert files.find("r.example", "others") == CREDENTIALS
    forget_credentials(files, "r.example", "")
    assert files.find("r.example", "others") is None
    with pytest.raises(NotFound):
        forget_credentials(files, "r.example", "")


def test_credential_helpers_are_asked(tmp_path, monkeypatch):
    log = tmp_path / "log"
    program = tmp_path / "docker-credential-test"
    program.write_text(
        f'#!/bin/sh\nread -r line\necho "$1 $line" >> {log}\n'
        'case "$line" in *r.example*) ;; *) echo "credentials not found in native keychain"; exit 1;; esac\n'
        f'[ "$1" = get ] && echo \'{{"Username":"ann","Secret":"{SECRET}"}}\'; exit 0\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {"r.example": "test"}, "credsStore": "test"}))
    files = CredentialFiles((path,))
    assert files.find("r.example") == CREDENTIALS
    assert files.find("elsewhere.test") is None
    store_credentials(files, "r.example", "", CREDENTIALS)
    forget_credentials(files, "r.example", "")
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["get", "get", "store", "erase"]
    assert SECRET not in path.read_text()
    path.write_text(json.dumps({"credsStore": "missing"}))
    with pytest.raises(Authentication) as caught:
        files.find("r.example")
    assert caught.value.code == "credential-helper"
    path.write_text(json.dumps({"credsStore": "../../bin/sh"}))
    with pytest.raises(InvalidInput):
        files.find("r.example")


@needs_tool("docker-registry", "htpasswd", "podman")
def test_podman_and_lamella_read_what_the_other_logged_in_with(users_registry, tmp_path):
    host, user, password = users_registry.host, users_registry.user, users_registry.password
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    store_credentials(CredentialFiles((ours,)), host, "", Credentials(user, password))
    login = ["podman", "login", "--tls-verify=false", "--authfile"]
    subprocess.run([*login, theirs, "-u", user, "-p", password, host], check=True, capture_output=True)
    shown = subprocess.run([*login, ours, "--get-login", host], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == user
    assert CredentialFiles((theirs,)).find(host) == Credentials(user, password)
    with Registry(host, Access(files=CredentialFiles((theirs,)))) as client:
        client.ping()


def test_a_proxy_is_asked_for_other_machines_and_not_for_this_one():
    with scripted(lambda asked: Reply(200, b"{}")) as proxy:
        proxies = {"http": proxy.url.replace("//", "//me:word@"), "no": "direct.example, .inside.example"}
        with Registry("registry.example", access(proxies=proxies)) as client:
            assert client.call(Call("GET", "x")).status == 200
        (asked,) = proxy.asked
        assert asked.path == "http://registry.example/v2/x"
        assert asked.headers["proxy-authorization"] == Credentials("me", "word").basic
        with (
            scripted(lambda asked: Reply(200, b"{}")) as server,
            Registry(server.host, access(proxies=proxies)) as near,
        ):
            near.call(Call("GET", "x"))
        assert len(proxy.asked) == 1


def test_closing_a_client_ends_what_is_under_way():
    ended: list[LamellaError] = []
    with scripted(lambda asked: Reply(200, wire.noise(9_000_000), {"Content-Length": "10000000"})) as server:
        source = RegistrySource(Repository(Registry(server.host, access()), "a"), ())
        blob = replace(layer(b"x"), size=10_000_000)
        reader = source.open_blob(blob)
        reader.read(1)
        thread = threading.Thread(target=lambda: _until_it_fails(reader, ended))
        thread.start()
        time.sleep(0.1)
        source.interrupt()
        thread.join(10)
        assert not thread.is_alive()
    assert [error.kind for error in ended] == ["aborted"]


def test_a_deadline_ends_what_is_under_way():
    used = access(deadline=0.3, read_timeout=10_000)
    with scripted(lambda asked: Reply(200, b"some", {"Content-Length": "10000"})) as server:
        with source_at(server, used) as source, pytest.raises(Unavailable) as caught:
            read_all(source.open_blob(replace(layer(b"x"), size=10_000)))
        assert caught.value.code == "registry-deadline"
    with source_at(server, access(deadline=10_000)):
        pass


def _until_it_fails(reader, ended) -> None:
    try:
        while reader.read(1 << 16):
            pass
    except LamellaError as error:
        ended.append(error)
