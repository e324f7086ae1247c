from __future__ import annotations

import hashlib

import pytest

from lamella.errors import InvalidInput
from lamella.spec.digest import Digest, chain_ids
from lamella.testing import refuses

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_digest_is_text_and_back():
    digest = Digest.parse(EMPTY)
    assert digest == Digest.of(b"")
    assert (str(digest), digest.algorithm, digest.short) == (EMPTY, "sha256", "e3b0c44298fc")
    assert Digest.parse(str(Digest.of(b"x", "sha512"))) == Digest.of(b"x", "sha512")


def test_hashing_in_pieces():
    for algorithm in ("sha256", "sha512"):
        hasher = Digest.of(b"", algorithm).hasher()
        hasher.update(b"a")
        hasher.update(b"b")
        assert Digest.finish(hasher) == Digest.of(b"ab", algorithm)


@pytest.mark.parametrize(
    "text",
    ["", ":", "sha256", "sha256:", "sha256:e3b0", EMPTY.upper(), EMPTY[:-1], EMPTY + "0", EMPTY[:-1] + "g", " " + EMPTY,
     EMPTY + "\n", EMPTY.replace(":", "-"), EMPTY.replace("sha256", "sha512"), EMPTY.replace("sha256", ""),
     EMPTY.replace("e3", "\u0663\u0663"), "sha256:../../../etc/passwd", "sha256:" + "." * 64, "x" * 100_000,
     "SHA256:" + EMPTY[7:], "md5:", "-:a", "a b:c"],
)  # fmt: skip
def test_other_text_is_refused(text):
    with refuses(InvalidInput, "digest-syntax"):
        Digest.parse(text)


@pytest.mark.parametrize("text", ["md5:d41d8cd98f00b204e9800998ecf8427e", "blake3:" + "a" * 64, "a+b.c_d-e:AZ=_-09"])
def test_other_algorithms_are_refused_as_such(text):
    with refuses(InvalidInput, "digest-algorithm", naming=text):
        Digest.parse(text)


@pytest.mark.parametrize("value", [None, 1, b"sha256:", [], {}, True])
def test_other_types_are_refused(value):
    with refuses(InvalidInput, "digest-syntax", naming=type(value).__name__):
        Digest.parse(value)


def test_other_algorithms_are_not_computed():
    for algorithm in ("md5", "sha1", "nonsense", ""):
        with refuses(InvalidInput, "digest-algorithm"):
            Digest.of(b"", algorithm)


def test_chain_ids_are_those_of_the_image_specification():
    """``config.md``: ChainID(L0) = DiffID(L0), ChainID(L0|..|Ln) = Digest(ChainID(L0|..|Ln-1) + " " + DiffID(Ln))."""
    layers = [Digest.of(text) for text in (b"one", b"two", b"three")]
    first = str(layers[0])
    second = "sha256:" + hashlib.sha256(f"{first} {layers[1]}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {layers[2]}".encode()).hexdigest()
    assert [str(chain) for chain in chain_ids(layers)] == [first, second, third]
    assert chain_ids([]) == []
    assert chain_ids(layers[:1]) == layers[:1]


def test_a_chain_id_that_was_computed_with_sha256sum():
    """printf 'sha256:aa..a sha256:bb..b' | sha256sum"""
    layers = [Digest("sha256", "a" * 64), Digest("sha256", "b" * 64)]
    assert chain_ids(layers)[-1].hex == "ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
