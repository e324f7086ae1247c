"""The grammars that registries and their files are written in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import AccessDenied, InvalidInput, LamellaError, Unavailable, Unsupported
from lamella.registry.challenge import Challenge, parse_challenges
from lamella.registry.client import retry_after
from lamella.registry.credentials import CredentialFiles, Credentials, keys_for
from lamella.registry.hosts import is_loopback, may_get_credentials, origin, resolve
from lamella.registry.login import split_key
from lamella.registry.policy import Candidate, Policy, verified
from lamella.registry.registries_conf import Location, RegistriesConf
from lamella.registry.schema1 import payload, steps
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.media import OCI_MANIFEST
from lamella.spec.reference import Reference
from lamella.transfer.endpoints import Place

# -- WWW-Authenticate


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="a, b"'], [("basic", {"realm": "a, b"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (["BEARER Realm=x , SERVICE=y"], [("bearer", {"realm": "x", "service": "y"})]),
        (['Basic realm="x", Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (['Bearer realm="y"', "Basic realm=z"], [("bearer", {"realm": "y"}), ("basic", {"realm": "z"})]),
        (['Negotiate, Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Bearer realm="a\\"b\\\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
    ],
)
def test_challenges(lines, found):
    assert parse_challenges(lines) == [Challenge(scheme, parameters) for scheme, parameters in found]


@given(st.lists(st.text(max_size=60), max_size=3))
def test_whatever_a_challenge_is_it_is_read_to_its_end(lines):
    parse_challenges(lines)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("5", 5.0), (" 0 ", 0.0), ("soon", None), ("-1", None), ("²", None)]
)
def test_seconds_to_wait(text, seconds):
    assert retry_after(text) == seconds


def test_a_date_to_wait_for():
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert retry_after("Fri, 31 Dec 9999 23:59:59 GMT") > 1e9


# -- hosts


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:5000", "[::1]", "[::1]:5000"])
def test_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example", "10.0.0.1", "0x7f.1", "example.com", "[::2]", "127.0.0.1.nip.io", "[:::]"]
)
def test_not_this_machine(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("registry", "realm", "allowed"),
    [
        ("r.example.com", "https://r.example.com/token", True),
        ("r.example.com:5000", "https://r.example.com/token", True),
        ("docker.io", "https://auth.docker.io/token", False),
        ("registry-1.docker.io", "https://auth.docker.io/token", True),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("registry.gitlab.com", "http://gitlab.com/jwt/auth", False),
        ("registry.gitlab.com", "https://evilgitlab.com/", False),
        ("registry.gitlab.com", "https://gitlab.com.evil.example/", False),
        ("shop.co.uk", "https://other.co.uk/", False),
        ("r.shop.co.uk", "https://auth.shop.co.uk/", True),
        ("example.com", "https://other.com/", False),
        ("mine.azurecr.io", "https://other.azurecr.io/", False),
        ("mine.s3.amazonaws.com", "https://other.s3.amazonaws.com/", False),
        ("10.0.0.1", "https://10.0.0.2/", False),
        ("10.0.0.1", "https://10.0.0.1/", True),
        ("127.0.0.1:5000", "http://127.0.0.1:5001/token", True),
        ("127.0.0.1:5000", "http://localhost:5001/token", False),
        ("r.example.com", "http://r.example.com/token", False),
    ],
)
def test_which_token_server_may_have_credentials(registry, realm, allowed):
    assert may_get_credentials(registry, realm, named=frozenset(), insecure=False) == allowed


def test_what_the_caller_names_or_accepts_may_have_credentials():
    named = frozenset({"auth.elsewhere.net"})
    assert may_get_credentials("r.example.com", "https://auth.elsewhere.net/", named=named, insecure=False)
    assert not may_get_credentials("r.example.com", "http://auth.elsewhere.net/", named=named, insecure=True)
    assert may_get_credentials("r.example.com", "http://r.example.com/", named=frozenset(), insecure=True)


def test_locations_are_resolved():
    assert resolve("https://a/v2/x/", "/y?z=1") == "https://a/y?z=1"
    assert resolve("https://a/v2/x/", "https://b:444/y") == "https://b:444/y"
    assert origin("https://A:443/x") == ("https", "a", 443)
    for bad in ("ftp://a/", "https:///x", "https://a:b/", "https://u@a/", "javascript:x", "https://a/\n"):
        with pytest.raises(Unavailable):
            origin(bad)


# -- credentials

AUTH = "YW5uOndvcmQ="  # ann:word


def files(tmp_path: Path, document: object, name: str = "auth.json") -> CredentialFiles:
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return CredentialFiles((path,))


def test_the_most_specific_key_wins(tmp_path):
    def entry(user):
        return {"username": user, "password": "p"}

    auths = {"r.io": entry("host"), "r.io/a": entry("team"), "r.io/a/b": entry("repository"), "r.io/ab": entry("no")}
    found = files(tmp_path, {"auths": auths})
    cases = {"a/b": "repository", "a/c": "team", "a/b/c": "repository", "x": "host", "abc": "host", "": "host"}
    assert {path: found.find("r.io", path).username for path in cases} == cases
    assert found.find("r.io:5000") is None
    assert list(keys_for("h", "a/b")) == ["h/a/b", "h/a", "h"]


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "index.docker.io/v1/", "docker.io", "index.docker.io", "https://docker.io"]
)
def test_docker_hub_has_many_names(tmp_path, key):
    assert files(tmp_path, {"auths": {key: {"auth": AUTH}}}).find("docker.io", "library/x") == Credentials(
        "ann", "word"
    )


def test_urls_of_registries_and_identity_tokens(tmp_path):
    auths = {"https://r.io:5000/v2/": {"auth": AUTH}, "r.example": {"auth": "PHRva2VuPjo=", "identitytoken": "t"}}
    found = files(tmp_path, {"auths": auths})
    assert found.find("r.io:5000") == Credentials("ann", "word")
    assert found.find("r.example").identity_token == "t"
    assert found.find("r.io") is None


def test_files_are_looked_through_in_podmans_order(tmp_path):
    home, runtime = tmp_path / "home", tmp_path / "run"
    order = [
        runtime / "containers/auth.json",
        home / ".config/containers/auth.json",
        home / ".docker/config.json",
    ]
    runtime.mkdir()
    (home).mkdir()
    (home / ".dockercfg").write_text(json.dumps({"https://r.io/v1/": {"auth": AUTH}}))
    found = CredentialFiles.of_user(home, runtime)
    assert found.paths == tuple(order)
    assert found.find("r.io").username == "ann"
    for number, path in reversed(list(enumerate(order))):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"auths": {"r.io": {"username": str(number), "password": "p"}}}))
        assert found.find("r.io").username == str(number)


def test_the_dockercfg_of_docker_0_4_is_for_dockers_own_index(tmp_path):
    (tmp_path / ".dockercfg").write_text(f"auth = {AUTH}\nemail = ann@example.com\n")
    found = CredentialFiles.of_user(tmp_path, system=tmp_path)
    assert found.find("docker.io", "ann/app") == Credentials("ann", "word")
    assert found.find("r.io") is None


@pytest.mark.parametrize("text", ["auth = \nemail = \n", ""])
def test_a_dockercfg_without_anything_has_no_credentials(tmp_path, text):
    (tmp_path / ".dockercfg").write_text(text)
    assert CredentialFiles.of_user(tmp_path, system=tmp_path).find("docker.io") is None


@pytest.mark.parametrize("text", ["auth = !!\nemail = x\n", "auth = bm9jb2xvbg==\nemail = x\n", "auth\n"])
def test_a_malformed_dockercfg_is_told_without_what_is_in_it(tmp_path, text):
    (tmp_path / ".dockercfg").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        CredentialFiles.of_user(tmp_path, system=tmp_path).find("docker.io")
    assert ".dockercfg" in str(caught.value)
    assert "bm9jb2xvbg" not in str(caught.value)


def test_who_has_no_runtime_directory_may_have_a_file_all_the_same(tmp_path):
    found = CredentialFiles.of_user(tmp_path, tmp_path / "none", system=tmp_path)
    assert found.written == tmp_path / ".config/containers/auth.json"
    own = tmp_path / str(os.getuid()) / "auth.json"
    own.parent.mkdir()
    own.write_text("{}")
    found = CredentialFiles.of_user(tmp_path, tmp_path / "none", system=tmp_path)
    assert found.written == own


@pytest.mark.parametrize("entry", [{"auth": "!!!"}, {"auth": "bm9jb2xvbg=="}, {"auth": 7}, {"username": []}])
def test_malformed_files_of_credentials_are_told(tmp_path, entry):
    with pytest.raises(InvalidInput) as caught:
        files(tmp_path, {"auths": {"r.io": entry}}).find("r.io")
    assert "auth.json" in str(caught.value)


def test_an_empty_entry_is_none(tmp_path):
    assert files(tmp_path, {"auths": {"r.io": {}}}).find("r.io") is None
    (tmp_path / "auth.json").write_text("")
    assert CredentialFiles((tmp_path / "auth.json", tmp_path / "not there")).find("r.io") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, ("docker.io", "")),
        ("https://index.docker.io/v1/", ("docker.io", "")),
        ("r.example:5000", ("r.example:5000", "")),
        ("https://r.example/", ("r.example", "")),
        ("r.example/team/app", ("r.example", "team/app")),
        ("localhost", ("localhost", "")),
    ],
)
def test_what_a_user_logs_in_to(text, found):
    assert split_key(text) == found


@pytest.mark.parametrize("text", ["team", "r.example/UPPER", "-", "r.example/../x"])
def test_what_nobody_can_log_in_to(text):
    with pytest.raises(InvalidInput):
        split_key(text)


# -- registries.conf

CONF = """
unqualified-search-registries = ["one.example", "docker.io"]
[[registry]]
location = "quay.io"
[[registry.mirror]]
location = "mirror.example/quay"
insecure = true
[[registry]]
prefix = "quay.io/secret"
location = "quay.io/secret"
blocked = true
[[registry]]
prefix = "*.corp.example"
insecure = true
[[registry]]
prefix = "old.example/team"
location = "new.example:5000/groups/team"
mirror-by-digest-only = true
[[registry.mirror]]
location = "by-digest.example"
[[registry]]
prefix = "tags.example"
location = "tags.example"
[[registry.mirror]]
location = "only-tags.example"
pull-from-mirror = "tag-only"
[aliases]
"tool" = "quay.io/team/tool"
"""


@pytest.fixture
def conf(tmp_path) -> RegistriesConf:
    path = tmp_path / "registries.conf"
    path.write_text(CONF)
    drop = tmp_path / "d"
    drop.mkdir()
    (drop / "b.conf").write_text('[aliases]\n"late" = "z.example/late"\n"tool" = "quay.io/other/tool"\n')
    (drop / "a.conf").write_text('[aliases]\n"late" = "a.example/late"\n')
    (drop / "ignored.txt").write_text("not TOML")
    return RegistriesConf.load(path, drop)


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("plain.example/a/b:1", [Location("plain.example", "a/b")]),
        ("quay.io/a:1", [Location("mirror.example", "quay/a", True, True), Location("quay.io", "a")]),
        ("x.corp.example/a", [Location("x.corp.example", "a", True)]),
        ("corp.example/a", [Location("corp.example", "a")]),
        ("old.example/team/app:1", [Location("new.example:5000", "groups/team/app")]),
        ("old.example/teams/app:1", [Location("old.example", "teams/app")]),
        (
            f"old.example/team/app@{DIGEST}",
            [Location("by-digest.example", "app", False, True), Location("new.example:5000", "groups/team/app")],
        ),
        (f"tags.example/a@{DIGEST}", [Location("tags.example", "a")]),
        ("tags.example/a", [Location("only-tags.example", "a", False, True), Location("tags.example", "a")]),
    ],
)
def test_where_images_are(conf, name, places):
    assert conf.locations(Reference.parse(name)) == places
    assert conf.location(Reference.parse(name)) == places[-1]


def test_what_is_blocked_is_refused(conf):
    for ask in (conf.locations, conf.location):
        with pytest.raises(AccessDenied) as caught:
            ask(Reference.parse("quay.io/secret/a"))
        assert caught.value.code == "registry-blocked"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tool:1", ["quay.io/other/tool:1"]),
        ("late", ["z.example/late:latest"]),
        ("app", ["one.example/app:latest", "docker.io/library/app:latest"]),
        (f"team/app@{DIGEST}", [f"one.example/team/app@{DIGEST}", f"docker.io/team/app@{DIGEST}"]),
        ("docker.io/app", ["docker.io/library/app:latest"]),
        ("localhost/app", ["localhost/app:latest"]),
        ("r.example:5000/app:1", ["r.example:5000/app:1"]),
    ],
)
def test_short_names(conf, name, meant):
    assert [str(reference) for reference in conf.candidates(name)] == meant
    assert len(RegistriesConf().candidates(name)) == 1


@pytest.mark.parametrize(
    "text",
    ["[", '[[registry]]\nblocked = true', "[registries.search]\nregistries=[]", "[[registry]]\nlocation = 7",
     '[[registry]]\nlocation="a.b"\n[[registry.mirror]]\nlocation="c.d"\npull-from-mirror="never"', "registry = 1"],
)  # fmt: skip
def test_malformed_registries_conf_is_told_with_its_file(tmp_path, text):
    (tmp_path / "r.conf").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        RegistriesConf.load(tmp_path / "r.conf")
    assert "r.conf" in str(caught.value)


# -- policy.json

POLICY = {
    "default": [{"type": "reject"}],
    "transports": {
        "docker": {
            "r.example": [{"type": "insecureAcceptAnything"}],
            "r.example/signed": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            "r.example/signed/but:this": [{"type": "insecureAcceptAnything"}],
            "*.wild.example": [{"type": "insecureAcceptAnything"}],
            "both.example": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
        },
        "dir": {"": [{"type": "insecureAcceptAnything"}]},
    },
}


def candidate(name: str) -> Candidate:
    return Candidate(Reference.parse(name), Descriptor.of(OCI_MANIFEST, b"{}"), b"{}", list, dict)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("r.example/a/b:1", ""),
        ("other.example/a", "policy-rejected"),
        ("alpine", "policy-rejected"),
        ("r.example/signed/x", "policy-signature"),
        ("r.example/signed/but:this", ""),
        ("r.example/signed/but:that", "policy-signature"),
        ("a.b.wild.example/x", ""),
        ("wild.example/x", "policy-rejected"),
        ("both.example/x", "policy-rejected"),
    ],
)
def test_the_most_specific_scope_of_a_policy_counts(name, code):
    policy = Policy.parse(json.dumps(POLICY).encode())
    if not code:
        verified(candidate(name), policy)
        return
    with pytest.raises((AccessDenied, Unsupported)) as caught:
        verified(candidate(name), policy)
    assert caught.value.code == code


def test_a_policy_for_the_whole_transport(tmp_path):
    document = {"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(document))
    verified(candidate("alpine"), Policy.load(path))


def test_callers_verify_as_they_like():
    verified(candidate("alpine"), None)
    verified(candidate("alpine"), lambda found: None)
    with pytest.raises(AccessDenied):
        verified(candidate("alpine"), lambda found: found.reference.domain != "docker.io")


@pytest.mark.parametrize(
    "document",
    [{}, {"default": []}, {"default": [{}]}, {"default": [{"type": "unknown"}]}, {"default": {}},
     {"default": [{"type": "reject"}], "more": 1}, {"default": [{"type": "reject"}], "transports": {"docker": []}},
     {"default": [{"type": "reject"}], "transports": {"docker": {"x": []}}}],
)  # fmt: skip
def test_malformed_policies_let_nothing_pass(document):
    with pytest.raises(InvalidInput):
        Policy.parse(json.dumps(document).encode())


# -- places


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("docker://alpine", Place("docker", "alpine")),
        ("oci:dir", Place("oci", "", Path("dir"))),
        ("oci:/a/b:name:tag", Place("oci", "name:tag", Path("/a/b"))),
        ("oci-archive:x.tar:1", Place("oci-archive", "1", Path("x.tar"))),
        ("docker-archive:x.tar:a/b:1", Place("docker-archive", "a/b:1", Path("x.tar"))),
        ("alpine:3", Place("store", "alpine:3")),
        ("store:oci:3", Place("store", "oci:3")),
        ("r.example:5000/a", Place("store", "r.example:5000/a")),
    ],
)
def test_places(text, place):
    assert Place.parse(text) == place


@pytest.mark.parametrize("text", ["", "oci:", "oci::x", "dir:x", "containers-storage:x", "docker-daemon:x:1", "store:"])
def test_what_is_no_place(text):
    with pytest.raises((InvalidInput, Unsupported)):
        Place.parse(text)


# -- schema 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"fsLayers": [], "history": []},
        {"fsLayers": [{"blobSum": DIGEST}], "history": []},
        {"fsLayers": [{"blobSum": "x"}], "history": [{"v1Compatibility": "{}"}]},
        {"fsLayers": [{"blobSum": DIGEST}], "history": [{"v1Compatibility": "["}]},
        {"fsLayers": [{"blobSum": DIGEST}], "history": [{"v1Compatibility": 1}]},
        {"fsLayers": [7], "history": [7]},
        {"signatures": [{"protected": "e30"}]},
        {"signatures": [{"protected": "!"}]},
        {"signatures": [7]},
    ],
)
def test_malformed_schema_1_is_refused(document):
    with pytest.raises(LamellaError):
        steps(json.dumps(document).encode())


def test_what_is_not_signed_is_its_own_payload():
    raw = json.dumps({"fsLayers": [{"blobSum": DIGEST}], "history": [{"v1Compatibility": "{}"}]}).encode()
    assert payload(raw) == raw
    (step,) = steps(raw)
    assert step.blob == Digest.parse(DIGEST)
