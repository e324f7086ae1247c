"""What is written, other tools read; what they write is read; and ids survive the way there and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from formats_support import MemorySource, copy, layer, read_all, real_image, run, sha256, tool

from lamella.archive.compression import Compression
from lamella.formats.detect import create_sink, open_source
from lamella.spec.documents import Manifest
from lamella.spec.endpoint import ImageSource, Offer

BASE, CHILD = "docker.io/library/base:1", "registry.example:5000/team/child:1.0"
LAYERS = [layer(a="one", dir="x"), layer(b="two"), layer(c="three")]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tool stores images as root only")


@pytest.fixture
def family() -> MemorySource:
    source = MemorySource()
    base = source.image(LAYERS[:2], BASE)
    source.image(LAYERS, CHILD, parent=base.descriptor.digest)
    return source


def manifest_of(source: ImageSource, offer: Offer) -> Manifest:
    return Manifest.parse(read_all(source, offer.descriptor), offer.descriptor.media_type)


def ids(source: ImageSource) -> dict[str, str]:
    """The image id of every name."""
    return {n: manifest_of(source, offer).config.digest.hex for offer in source.offers() for n in offer.names}


def written(source: ImageSource, kind: str, path: Path) -> Path:
    kind, _, option = kind.partition("+")
    options = {"legacy": True} if option == "legacy" else {"compression": Compression(option or "none")}
    copy(source, create_sink(kind, path, **options))
    return path


class TestSkopeo:
    def skopeo(self, *arguments: str | Path) -> str:
        return run(tool("skopeo"), "--insecure-policy", *arguments)

    @pytest.mark.parametrize("transport", ["oci", "oci-archive"])
    def test_it_inspects_the_image_that_was_written(self, family, tmp_path, transport):
        path = written(family, {"oci": "oci-dir"}.get(transport, transport), tmp_path / "out")
        for offer in family.found:
            seen = json.loads(self.skopeo("inspect", f"{transport}:{path}:{offer.names[0]}"))
            assert seen["Digest"] == str(offer.descriptor.digest)

    @pytest.mark.parametrize("kind", ["docker-archive", "docker-archive+legacy", "docker-archive+zstd"])
    def test_it_inspects_a_docker_archive(self, family, tmp_path, kind):
        path = written(family, kind, tmp_path / "out")
        for offer in family.found:
            seen = json.loads(self.skopeo("inspect", f"docker-archive:{path}:{offer.names[0]}"))
            count = len(manifest_of(family, offer).layers)
            assert seen["Layers"] == [f"sha256:{sha256(data)}" for data in LAYERS[:count]]
            config = self.skopeo("inspect", "--raw", "--config", f"docker-archive:{path}:{offer.names[0]}")
            assert sha256(config.encode()) == ids(family)[offer.names[0]]

    @pytest.mark.parametrize("kind", ["oci-dir", "oci-archive", "docker-archive"])
    @pytest.mark.parametrize("back", ["oci", "oci-archive", "docker-archive"])
    def test_it_copies_and_the_id_comes_back(self, family, tmp_path, kind, back):
        path = written(family, kind, tmp_path / "out")
        transport = {"oci-dir": "oci"}.get(kind, kind)
        self.skopeo("copy", f"{transport}:{path}:{CHILD}", f"{back}:{tmp_path}/back:{CHILD}")
        source = open_source(tmp_path / "back", spool=tmp_path)
        found = ids(source)
        assert list(found) == [CHILD]
        if (kind == "docker-archive") == (back == "docker-archive"):  # else it converts the config, and so the id
            assert found == {CHILD: ids(family)[CHILD]}
        assert written(source, kind, tmp_path / "again").exists()

    def test_it_reads_a_layout_to_which_images_were_added(self, family, tmp_path):
        self.skopeo("copy", f"oci:{real_image('alpine-3.20', tmp_path)}:3.20.3", f"oci:{tmp_path}/l:alpine")
        written(family, "oci-dir", tmp_path / "l")
        for name in ("alpine", BASE, CHILD):
            assert json.loads(self.skopeo("inspect", f"oci:{tmp_path}/l:{name}"))["Digest"]

    def test_an_image_of_many_platforms_is_copied_whole(self, tmp_path):
        source = open_source(real_image("hello-world-10-platforms", tmp_path), spool=tmp_path)
        (offer,) = source.offers()
        copy(source, create_sink("oci-dir", tmp_path / "l"), [Offer(offer.descriptor, ("hello",))])
        self.skopeo("copy", "--all", "--preserve-digests", f"oci:{tmp_path}/l:hello", f"oci:{tmp_path}/back:hello")
        found = open_source(tmp_path / "back", spool=tmp_path).offers()
        assert [o.descriptor.digest for o in found] == [offer.descriptor.digest]
        self.skopeo("--override-arch=s390x", "inspect", f"oci:{tmp_path}/l:hello")


@pytest.mark.parametrize("name", [BASE, "1.0", "feature_branch-1"])
def test_umoci_unpacks_what_was_written(tmp_path, name):
    umoci = tool("umoci")
    source = MemorySource()
    source.image(LAYERS, name)
    written(source, "oci-dir", tmp_path / "l")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run(umoci, "unpack", *rootless, "--image", f"{tmp_path}/l:{name}", tmp_path / "bundle")
    tree = tmp_path / "bundle" / "rootfs"
    found = {path.name: path.read_text() for path in tree.iterdir()}
    assert found == {"a": "one", "dir": "x", "b": "two", "c": "three"}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short: the tools put sockets below it, and podman counts its letters."""
    with tempfile.TemporaryDirectory(prefix="lml", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def podman(short_path) -> list[str]:
    """podman on a store of its own, in a mount namespace of its own."""
    command = [tool("unshare"), "-m", tool("podman"), "--root", f"{short_path}/s", "--runroot", f"{short_path}/r"]
    return [*command, "--storage-driver", "vfs"]


@needs_root
class TestPodman:
    # No gzip around a docker archive: skopeo 1.9 and podman 4.3 fail on one, gzip(1)'s too. docker reads it.
    @pytest.mark.parametrize("kind", ["docker-archive", "docker-archive+legacy", "docker-archive+zstd"])
    def test_it_loads_a_docker_archive_and_saves_the_same_images(self, family, tmp_path, podman, kind):
        run(*podman, "load", "-q", "-i", written(family, kind, tmp_path / "out"))
        for name, identity in ids(family).items():
            assert run(*podman, "image", "inspect", "--format", "{{.Id}}", name).strip() == identity
        run(*podman, "save", "-q", "-m", "-o", tmp_path / "back", BASE, CHILD)
        assert ids(open_source(tmp_path / "back", spool=tmp_path)) == ids(family)

    def test_it_loads_an_oci_archive_under_its_name(self, tmp_path, podman):
        source = MemorySource()
        source.image(LAYERS, CHILD)
        run(*podman, "load", "-q", "-i", written(source, "oci-archive", tmp_path / "out"))
        assert run(*podman, "image", "inspect", "--format", "{{.Id}}", CHILD).strip() == ids(source)[CHILD]
        run(*podman, "save", "-q", "--format", "oci-archive", "-o", tmp_path / "back", CHILD)
        assert ids(open_source(tmp_path / "back", spool=tmp_path)) == ids(source)

    def test_it_loads_a_layout(self, tmp_path, podman):
        source = open_source(real_image("alpine-3.20", tmp_path), spool=tmp_path)
        copy(source, create_sink("oci-dir", tmp_path / "l"), [Offer(source.offers()[0].descriptor, (BASE,))])
        run(*podman, "pull", "-q", f"oci:{tmp_path}/l:{BASE}")
        identity = manifest_of(source, source.offers()[0]).config.digest.hex
        assert identity in run(*podman, "images", "-q", "--no-trunc")


@pytest.fixture
def docker(short_path) -> Iterator[list[str]]:
    """docker with a daemon of its own, without networks, which ends with the test."""
    if shutil.which("dockerd") is None:
        pytest.skip("no docker daemon here: podman and skopeo read the same archives in the tests beside this one")
    daemon = tool("dockerd")
    socket = f"unix://{short_path}/d.sock"
    options = [f"--data-root={short_path}/data", f"--exec-root={short_path}/exec", f"--pidfile={short_path}/pid"]
    options += ["-H", socket, "--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none"]
    with open(short_path / "log", "w") as log:
        process = subprocess.Popen([daemon, *options], stderr=log)
    command = [tool("docker"), "-H", socket]
    try:
        for _ in range(300):
            if process.poll() is not None:
                pytest.skip(f"dockerd does not run here: {(short_path / 'log').read_text()[-300:]}")
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield command
    finally:
        process.terminate()
        process.wait(timeout=60)


@needs_root
class TestDocker:
    @pytest.mark.parametrize("kind", ["docker-archive", "docker-archive+legacy", "docker-archive+gzip"])
    def test_it_loads_what_was_written_and_saves_the_same_images(self, family, tmp_path, docker, kind):
        run(*docker, "load", "-q", "-i", written(family, kind, tmp_path / "out"))
        for name, identity in ids(family).items():
            assert run(*docker, "image", "inspect", "--format", "{{.Id}}", name).strip() == f"sha256:{identity}"
        base = run(*docker, "image", "inspect", "--format", "{{.Parent}}", CHILD).strip()
        assert base == f"sha256:{ids(family)[BASE]}"
        run(*docker, "save", "-o", tmp_path / "back", "base:1", CHILD)
        source = open_source(tmp_path / "back", spool=tmp_path)
        assert ids(source) == {name.removeprefix("docker.io/library/"): i for name, i in ids(family).items()}
        parents = {offer.names: offer.parent for offer in source.offers()}
        by_names = {offer.names: offer.descriptor.digest for offer in source.offers()}
        assert parents == {("base:1",): None, (CHILD,): by_names[("base:1",)]}

    def test_its_older_form_is_that_which_was_written(self, family, tmp_path, docker):
        run(*docker, "load", "-q", "-i", written(family, "docker-archive+legacy", tmp_path / "out"))
        run(*docker, "save", "-o", tmp_path / "back", "base:1", CHILD)
        members = [run("tar", "-tf", tmp_path / name).split() for name in ("out", "back")]
        records = [{member for member in listed if member.endswith("/json")} for listed in members]
        assert records[0] == records[1]
        for record in records[0]:
            texts = [run("tar", "-xOf", tmp_path / name, record) for name in ("out", "back")]
            assert texts[0] == texts[1]
