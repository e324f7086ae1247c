"""Platforms: their spellings, and which image is taken where (containerd's rules)."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidInput
from lamella.spec.platform import Platform
from lamella.testing import refuses

HERE = Platform.host()

SPELLINGS = [
    ("linux/amd64", "linux/amd64"), ("amd64", "linux/amd64"), ("x86_64", "linux/amd64"), ("X86-64", "linux/amd64"),
    ("linux/amd64/v1", "linux/amd64"), ("linux/amd64/v3", "linux/amd64/v3"), ("linux/amd64/2", "linux/amd64/v2"),
    ("i386", "linux/386"), ("linux/i686", "linux/386"), ("linux/386/sse2", "linux/386"),
    ("arm64", "linux/arm64"), ("aarch64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64"),
    ("linux/arm64/8", "linux/arm64"), ("linux/arm64/v9", "linux/arm64/v9"), ("linux/aarch64/v8.2", "linux/arm64/v8.2"),
    ("arm", "linux/arm/v7"), ("linux/arm/7", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6"),
    ("linux/arm/5", "linux/arm/v5"), ("armhf", "linux/arm/v7"), ("armel", "linux/arm/v6"),
    ("linux/armv6l", "linux/arm/v6"), ("linux/armhf/v6", "linux/arm/v7"),
    ("riscv64", "linux/riscv64"), ("s390x", "linux/s390x"), ("ppc64le", "linux/ppc64le"), ("loong64", "linux/loong64"),
    ("windows/amd64", "windows/amd64"), ("macos/arm64", "darwin/arm64"), ("Linux/AMD64", "linux/amd64"),
    ("wasip1/wasm", "wasip1/wasm"), ("plan10/z80", "plan10/z80"), ("unknown/unknown", "unknown/unknown"),
    ("linux", f"linux/{'/'.join(str(HERE).split('/')[1:])}"),
    ("windows", f"windows/{'/'.join(str(HERE).split('/')[1:])}"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "canonical"), SPELLINGS)
def test_spellings(text, canonical):
    platform = Platform.parse(text)
    assert str(platform) == canonical
    assert Platform.parse(canonical) == platform
    assert platform.normalized() == platform


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "/amd64", "a/b/c/d", "linux//v8", "z80", "linux/a b", "linux/*", "linux/é", "linux\n"]
)
def test_what_is_no_platform(text):
    with refuses(InvalidInput, "platform-syntax"):
        Platform.parse(text)


RUNS = [
    # on what machine, which of these, best first
    ("linux/amd64", ["linux/amd64", "linux/386"]),
    ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
    ("linux/386", ["linux/386"]),
    ("linux/arm/v5", ["linux/arm/v5"]),
    ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
    ("linux/arm", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
    ("linux/arm/v8", ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
    ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
    ("linux/arm64/v8.1", ["linux/arm64/v8.1", "linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6",
                          "linux/arm/v5"]),
    ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64/v8.1", "linux/arm64", "linux/arm/v8",
                        "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
    ("linux/arm64/v9.1", ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64/v8.5",
                          "linux/arm64/v8.1", "linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6",
                          "linux/arm/v5"]),
    ("linux/riscv64", ["linux/riscv64"]),
    ("linux/ppc64le", ["linux/ppc64le"]),
    ("windows/amd64", ["windows/amd64", "windows/386"]),
]  # fmt: skip
EVERYTHING = sorted({offered for _, order in RUNS for offered in order} | {"linux/riscv64/rva22u64", "linux/amd64/v4"})


@pytest.mark.parametrize(("machine", "order"), RUNS)
def test_what_runs_where_and_what_is_taken_first(machine, order):
    wanted = Platform.parse(machine)
    offered = [Platform.parse(text) for text in EVERYTHING]
    taken = []
    while (position := wanted.choose(offered)) is not None:
        taken.append(str(offered.pop(position)))
    assert taken == order
    assert all(wanted.distance(platform) is None for platform in offered)


def test_the_first_of_equals_is_taken():
    offered = [Platform("linux", "arm64", "v8"), Platform("linux", "arm64"), Platform("linux", "aarch64")]
    assert Platform.parse("arm64").choose(offered) == 0
    assert Platform.parse("arm64").choose([]) is None
    assert [Platform.parse("arm64").distance(platform) for platform in offered] == [0, 0, 0]


def test_attestations_are_never_taken():
    offered = [Platform("unknown", "unknown")]
    assert HERE.choose(offered) is None


def test_an_image_that_states_no_system_is_of_linux():
    assert Platform("linux", "amd64").distance(Platform("", "amd64")) == 0
    assert Platform("windows", "amd64").distance(Platform("", "amd64")) is None


def test_the_version_of_the_system_does_not_matter():
    wanted = Platform.parse("windows/amd64")
    assert wanted.distance(Platform("windows", "amd64", "", "10.0.17763.1", ("win32k",))) == 0


def test_json_forms_round_trip():
    full = Platform("windows", "arm64", "v8", "10.0", ("a", "b"))
    for platform in (Platform("linux", "amd64"), full, Platform("", "")):
        assert Platform.from_object(platform.to_object()) == platform
    assert Platform("linux", "arm", "v7").to_object() == {"architecture": "arm", "os": "linux", "variant": "v7"}


@pytest.mark.parametrize("field", ["os", "architecture", "variant", "os.version", "os.features"])
@pytest.mark.parametrize("value", [1, True, {}, [1], 1.5])
def test_wrong_typed_fields_are_refused(field, value):
    with refuses(InvalidInput, "document-wrong-type", naming=field):
        Platform.from_object({"os": "linux", "architecture": "amd64", field: value})


def test_this_machine_has_a_platform():
    assert HERE.os == "linux"
    assert HERE.architecture
    assert HERE.distance(HERE) == 0
