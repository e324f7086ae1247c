"""Image names: docker's grammar and docker's defaults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import InvalidInput
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference
from lamella.testing import refuses

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX}{HEX}"

VALID = [
    # what a user writes, what it means, how docker shows it
    ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
    ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("index.docker.io/me/app:1", "docker.io/me/app:1", "me/app:1"),
    ("me/app", "docker.io/me/app:latest", "me/app:latest"),
    ("library/deep/er", "docker.io/library/deep/er:latest", "library/deep/er:latest"),
    ("other/library", "docker.io/other/library:latest", "other/library:latest"),
    ("quay.io/app", "quay.io/app:latest", "quay.io/app:latest"),
    ("quay.io/library/app", "quay.io/library/app:latest", "quay.io/library/app:latest"),
    ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
    ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
    ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
    ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
    ("host:5000/a/b/c:v1", "host:5000/a/b/c:v1", "host:5000/a/b/c:v1"),
    ("quay.io", "docker.io/library/quay.io:latest", "quay.io:latest"),
    ("quay.io:443", "docker.io/library/quay.io:443", "quay.io:443"),
    ("10.0.0.1/app", "10.0.0.1/app:latest", "10.0.0.1/app:latest"),
    ("10.0.0.1:80/app:80", "10.0.0.1:80/app:80", "10.0.0.1:80/app:80"),
    ("10.0.0.1:80", "docker.io/library/10.0.0.1:80", "10.0.0.1:80"),
    ("[::1]/app", "[::1]/app:latest", "[::1]/app:latest"),
    ("[2001:db8::1]:5000/app:v", "[2001:db8::1]:5000/app:v", "[2001:db8::1]:5000/app:v"),
    ("Shout/app", "Shout/app:latest", "Shout/app:latest"),
    ("REGISTRY.example.com/app", "REGISTRY.example.com/app:latest", "REGISTRY.example.com/app:latest"),
    ("xn--bcher-kva.example/app", "xn--bcher-kva.example/app:latest", "xn--bcher-kva.example/app:latest"),
    ("a.b-c.d/e", "a.b-c.d/e:latest", "a.b-c.d/e:latest"),
    ("a", "docker.io/library/a:latest", "a:latest"),
    ("0", "docker.io/library/0:latest", "0:latest"),
    ("a_b", "docker.io/library/a_b:latest", "a_b:latest"),
    ("a__b/c", "docker.io/a__b/c:latest", "a__b/c:latest"),
    ("a---b/c-d", "docker.io/a---b/c-d:latest", "a---b/c-d:latest"),
    ("a.b_c__d-e", "docker.io/library/a.b_c__d-e:latest", "a.b_c__d-e:latest"),
    ("app:Upper_and.dots-1", "docker.io/library/app:Upper_and.dots-1", "app:Upper_and.dots-1"),
    ("app:_", "docker.io/library/app:_", "app:_"),
    (f"app:{'t' * 128}", f"docker.io/library/app:{'t' * 128}", f"app:{'t' * 128}"),
    (f"app@{SHA256}", f"docker.io/library/app@{SHA256}", f"app@{SHA256}"),
    (f"app:1@{SHA256}", f"docker.io/library/app:1@{SHA256}", f"app:1@{SHA256}"),
    (f"h:1/app@{SHA512}", f"h:1/app@{SHA512}", f"h:1/app@{SHA512}"),
    (HEX[:63], f"docker.io/library/{HEX[:63]}:latest", f"{HEX[:63]}:latest"),
    (HEX + "0", f"docker.io/library/{HEX}0:latest", f"{HEX}0:latest"),
    (f"{HEX}:1", f"docker.io/library/{HEX}:1", f"{HEX}:1"),
    (f"docker.io/{HEX}", f"docker.io/library/{HEX}:latest", f"{HEX}:latest"),
    (SHA256, f"docker.io/library/sha256:{HEX}", f"sha256:{HEX}"),
    ("docker.io/quay.io/app", "docker.io/quay.io/app:latest", "docker.io/quay.io/app:latest"),
    ("docker.io/localhost/app", "docker.io/localhost/app:latest", "docker.io/localhost/app:latest"),
    ("registry-1.docker.io/a", "registry-1.docker.io/a:latest", "registry-1.docker.io/a:latest"),
    ("docker.io:443/app", "docker.io:443/app:latest", "docker.io:443/app:latest"),
    (f"{'a/' * 116}{'b' * 13}", f"docker.io/{'a/' * 116}{'b' * 13}:latest", f"{'a/' * 116}{'b' * 13}:latest"),
]

INVALID = [
    "", " ", "alpine ", " alpine", "alpine\n", "al pine", "\0", "a\0b", "é", "a/é", "\u0661", "ａ",
    ":tag", "alpine:", "alpine::1", "alpine:-1", "alpine:.1", "alpine:a/b:", "alpine:a+b", f"alpine:{'t' * 129}",
    "Alpine", "ALPINE:1", "me/App", "quay.io/App", "host:5000/Up/low", f"App@{SHA256}",
    "-a", "a-", "_a", "a_", ".a", "a.", "a..b", "a___b", "a._b", "a-.b", "a_-b", "a/-b", "a/b-", "__/__",
    "/", "/a", "a/", "a//b", "a///b", "./a", "../a", "a/../b", "a/./b", "..", ".", "//a",
    "docker.io/", "docker.io//a", "quay.io/", "quay.io/a/", "localhost/", "-quay.io/a", "quay-.io/a", "quay..io/a",
    "quay_x.io/a", ".io/a", "io./a", "host:/a", "host:port/a", "host:5000:6000/a", "host:-1/a", ":5000/a",
    "::1/a", "[::1]", "[::1]:5000", "[::1/a", "::1]/a", "[]/a", "[::1%eth0]:5000/a", "[::127.0.0.1]:5000/a", "[xyz]/a",
    "https://quay.io/a", "docker://alpine", "user:secret@quay.io/a", "a?b", "a#b", "a$b", "a\\b", "a%2fb", "a,b", "a@b",
    "@", f"@{SHA256}", "a@", "a@sha256", "a@sha256:", f"a@{SHA256[:-1]}", f"a@{SHA256}0", f"a@{SHA256.upper()}",
    f"a@md5:{HEX[:32]}", f"a@nonsense:{HEX}", f"a@{SHA256}@{SHA256}", f"a@{SHA256}:tag", f"a@sha512:{HEX}",
    HEX, "f" * 64, f"docker.io/{'a' * 250}", f"{'a/' * 128}a", "a" * 300, f"{'h' * 200}.example/{'a' * 60}",
]  # fmt: skip


@pytest.mark.parametrize(("text", "canonical", "familiar"), VALID)
def test_names_mean_what_docker_takes_them_for(text, canonical, familiar):
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert reference.familiar == familiar
    assert Reference.parse(canonical) == Reference.parse(familiar) == reference


@pytest.mark.parametrize("text", INVALID)
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        Reference.parse(text)
    assert caught.value.code in ("reference-syntax", "digest-syntax", "digest-algorithm")


def test_the_parts_of_a_name():
    reference = Reference.parse(f"host:5000/a/b:tag@{SHA256}")
    assert (reference.domain, reference.path, reference.tag) == ("host:5000", "a/b", "tag")
    assert reference.digest == Digest("sha256", HEX)
    assert reference.repository == reference.familiar_repository == "host:5000/a/b"
    assert str(reference.without_digest()) == "host:5000/a/b:tag"
    assert str(Reference.parse(f"a@{SHA256}").without_digest()) == "docker.io/library/a:latest"


def test_the_refusal_says_why():
    for text, why in (
        (HEX, "an id"),
        ("Alpine", "lower-case"),
        ("a:-", "a tag has up to 128"),
        ("quay_x.io/a", "'quay_x.io' is not a host"),
        ("a" * 300, "more than 255 characters"),
    ):
        with refuses(InvalidInput, "reference-syntax", naming=why):
            Reference.parse(text)


def test_a_very_long_text_is_refused_without_being_searched():
    for text in ("a" * 10_000_000, "a-" * 5_000_000, "a" * 5_000_000 + "!", "0" * 4_000_000 + "/" + "-" * 4_000_000):
        with refuses(InvalidInput, "reference-syntax"):
            Reference.parse(text)


def test_references_are_ordered_and_can_be_keys():
    texts = ["b", "a:2", "a:1", "quay.io/a"]
    assert [str(r) for r in sorted(map(Reference.parse, texts))] == [
        "docker.io/library/a:1",
        "docker.io/library/a:2",
        "docker.io/library/b:latest",
        "quay.io/a:latest",
    ]
    assert len({Reference.parse("a"), Reference.parse("docker.io/library/a:latest")}) == 1


@given(st.text(st.sampled_from("aZ0._-/:@[]%"), max_size=30) | st.text(max_size=20))
def test_any_text_is_a_name_that_round_trips_or_is_refused(text):
    try:
        reference = Reference.parse(text)
    except InvalidInput:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert ".." not in str(reference)
