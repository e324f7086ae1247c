"""Formats are told by content, whatever the name and the compression, from files, pipes and standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from formats_support import (
    MemorySource,
    blobs_of,
    copy,
    layer,
    listing,
    open_descriptors,
    read_all,
    real_image,
    tar_of,
)

from lamella.archive.compression import Compression, CompressWriter
from lamella.errors import (
    AccessDenied,
    FailedPrecondition,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
)
from lamella.formats.detect import KINDS, create_sink, open_source
from lamella.formats.docker_archive import DockerArchiveSource
from lamella.formats.oci_archive import OciArchiveSource
from lamella.formats.oci_layout import OciLayoutSource
from lamella.spec.limits import Limits
from lamella.spec.progress import Cancelled


@pytest.fixture
def image() -> MemorySource:
    source = MemorySource()
    source.image([layer(a="one"), layer(b="two")], "docker.io/library/demo:1")
    return source


SOURCES = {"oci-dir": OciLayoutSource, "oci-archive": OciArchiveSource, "docker-archive": DockerArchiveSource}


def compressed(data: bytes, compression: Compression) -> bytes:
    out: list[bytes] = []
    with CompressWriter(out.append, compression) as writer:
        writer.write(data)
    return b"".join(out)


def is_whole(source: object) -> bool:
    return all(read_all(source, blob) for offer in source.offers() for blob in blobs_of(source, offer.descriptor))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_sink_writes_its_source_reads(image, tmp_path, kind):
    copy(image, create_sink(kind, tmp_path / "misleading.zip"))
    source = open_source(tmp_path / "misleading.zip", spool=tmp_path)
    assert type(source) is SOURCES[kind]
    assert source.offers()[0].names == ("docker.io/library/demo:1",)
    assert is_whole(source)
    assert os.listdir(tmp_path) == ["misleading.zip"]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_may_be_compressed(image, tmp_path, kind, compression):
    copy(image, create_sink(kind, tmp_path / "a", compression=compression))
    before = open_descriptors()
    source = open_source(tmp_path / "a", spool=tmp_path)
    assert type(source) is SOURCES[kind]
    assert is_whole(source)
    source.close()
    assert open_descriptors() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_layout_that_is_a_docker_archive_too_is_read_as_a_layout(image, tmp_path):
    copy(image, create_sink("oci-archive", tmp_path / "a"))
    copy(image, create_sink("docker-archive", tmp_path / "b"))
    with tarfile.open(tmp_path / "a", "a") as both, tarfile.open(tmp_path / "b") as other:
        for member in other:
            both.addfile(member, other.extractfile(member))
    source = open_source(tmp_path / "a", spool=tmp_path)
    assert isinstance(source, OciArchiveSource)
    assert source.offers()[0].descriptor.digest == image.found[0].descriptor.digest


def test_a_file_named_index_json_makes_no_layout(tmp_path):
    (tmp_path / "a").write_bytes(tar_of({"index.json": b"{}", "etc/passwd": b"root"}))
    with pytest.raises(InvalidInput) as caught:
        open_source(tmp_path / "a", spool=tmp_path)
    assert caught.value.code == "not-an-image"


def test_a_root_file_system_is_told_where_it_belongs(tmp_path):
    (tmp_path / "base.tar").write_bytes(tar_of({"etc/passwd": b"root", "bin/sh": b"#!"}))
    with pytest.raises(InvalidInput) as caught:
        open_source(tmp_path / "base.tar", spool=tmp_path)
    assert caught.value.code == "not-an-image"
    assert "lamella import" in caught.value.hint


def test_real_root_file_systems_are_told_too(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        open_source(real_image("aufs/union.tar", tmp_path), spool=tmp_path)
    assert caught.value.code == "not-an-image"


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4" + bytes(600), bytes(10240), b"{}" * 400, b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    before = open_descriptors()
    with pytest.raises(LamellaError) as caught:
        open_source(tmp_path / "a.tar", spool=tmp_path)
    assert caught.value.code in ("not-an-archive", "compression-truncated")
    assert caught.value.subject == str(tmp_path / "a.tar")
    assert (open_descriptors(), os.listdir(tmp_path)) == (before, ["a.tar"])


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD, Compression.XZ])
def test_compressed_rubbish_is_refused_before_it_is_unpacked(tmp_path, compression):
    (tmp_path / "a").write_bytes(compressed(bytes(64 << 20), compression))
    with pytest.raises(InvalidInput) as caught:
        open_source(tmp_path / "a", spool=tmp_path / "missing")  # would fail on the first byte to be spooled
    assert caught.value.code == "not-an-archive"


def test_a_bomb_is_refused(tmp_path):
    data = tar_of({"manifest.json": b"[]", "filler": bytes(32 << 20)})
    (tmp_path / "a").write_bytes(compressed(data, Compression.XZ))
    with pytest.raises(ResourceExhausted) as caught:
        open_source(tmp_path / "a", spool=tmp_path, limits=Limits(ratio_floor=1 << 20))
    assert caught.value.code == "compression-bomb"
    assert os.listdir(tmp_path) == ["a"]


def test_a_directory_that_is_no_layout_is_refused(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        open_source(tmp_path, spool=tmp_path)
    assert caught.value.code == "not-an-image"


def test_a_path_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        open_source(tmp_path / "a", spool=tmp_path)


def test_a_spool_directory_that_is_not_there_is_not_found(image, tmp_path):
    copy(image, create_sink("oci-archive", tmp_path / "a", compression=Compression.GZIP))
    with pytest.raises(NotFound) as caught:
        open_source(tmp_path / "a", spool=tmp_path / "missing")
    assert "missing" in str(caught.value)


def test_devices_that_never_end_are_refused(tmp_path):
    for device in ("/dev/zero", "/dev/urandom", "/dev/null"):
        with pytest.raises(LamellaError):
            open_source(Path(device), spool=tmp_path)
    assert os.listdir(tmp_path) == []


def test_pipes_are_read(image, tmp_path):
    copy(image, create_sink("docker-archive", tmp_path / "a"))
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a").read_bytes()))
    thread.start()
    source = open_source(tmp_path / "pipe", spool=tmp_path)
    thread.join()
    assert is_whole(source)


READ = (
    "import sys; from pathlib import Path; from lamella.formats.detect import open_source;"
    "source = open_source(None, spool=Path(sys.argv[1]));"
    "print(*[name for offer in source.offers() for name in offer.names], type(source).__name__)"
)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
@pytest.mark.parametrize("piped", [False, True])
def test_standard_input_is_read(image, tmp_path, compression, piped):
    copy(image, create_sink("oci-archive", tmp_path / "a", compression=compression))
    with open(tmp_path / "a", "rb") as file:
        given = {"input": file.read()} if piped else {"stdin": file}
        done = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, check=True, **given)
    assert done.stdout == b"docker.io/library/demo:1 OciArchiveSource\n"
    assert os.listdir(tmp_path) == ["a"]


WRITE = """
import sys
from pathlib import Path
from formats_support import MemorySource, copy, layer
from lamella.formats.detect import create_sink
source = MemorySource()
source.image([layer(a="one"), layer(b="two")], "docker.io/library/demo:1")
copy(source, create_sink("docker-archive", None if sys.argv[1] == "-" else Path(sys.argv[1]), spool=Path(sys.argv[2])))
"""


def write(target: str, spool: Path, **options: object) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", WRITE, target, spool]
    return subprocess.run(command, check=True, env=environment, **options).stdout or b""


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_standard_output_is_written(image, tmp_path, target):
    copy(image, create_sink("docker-archive", tmp_path / "a"))
    assert write(target, tmp_path, stdout=subprocess.PIPE) == (tmp_path / "a").read_bytes()
    assert os.listdir(tmp_path) == ["a"]


def test_a_pipe_is_written_and_stays_a_pipe(image, tmp_path):
    copy(image, create_sink("docker-archive", tmp_path / "a"))
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    copy(image, create_sink("docker-archive", tmp_path / "pipe", spool=tmp_path))
    assert reader.communicate()[0] == (tmp_path / "a").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "pipe"]


def test_a_full_device_is_reported(image, tmp_path):
    with pytest.raises(ResourceExhausted) as caught:
        copy(image, create_sink("oci-archive", Path("/dev/full"), spool=tmp_path))
    assert caught.value.code == "disk-full"
    assert os.listdir(tmp_path) == []
    assert Path("/dev/full").is_char_device()


def test_an_output_that_is_a_link_writes_what_it_leads_to(image, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/a.tar")
    copy(image, create_sink("oci-archive", tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "there") == ["a.tar"]


def test_an_output_that_is_a_directory_is_refused(tmp_path):
    with pytest.raises(FailedPrecondition) as caught:
        create_sink("oci-archive", tmp_path)
    assert caught.value.code == "output-is-directory"


def test_an_output_in_no_directory_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        create_sink("docker-archive", tmp_path / "no" / "a.tar")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_where_nobody_may_write_is_denied(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDenied):
        create_sink("oci-archive", tmp_path / "a.tar")


def test_files_get_the_permissions_of_the_umask(image, tmp_path):
    before = os.umask(0o027)
    try:
        copy(image, create_sink("oci-archive", tmp_path / "a.tar"))
    finally:
        os.umask(before)
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("oci-archive", {"legacy": True}),
        ("oci-dir", {"legacy": True}),
        ("oci-dir", {"compression": Compression.GZIP}),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, kind, options):
    with pytest.raises(InvalidInput):
        create_sink(kind, tmp_path / "x", **options)
    assert listing(tmp_path) == {}


def test_a_directory_on_standard_output_is_refused():
    with pytest.raises(InvalidInput):
        create_sink("oci-dir", None)


def test_a_scratch_directory_in_use_is_left_alone(image, tmp_path):
    first = create_sink("oci-archive", tmp_path / "a.tar")
    first.write_blob(image.found[0].descriptor, image.open_blob(image.found[0].descriptor))
    copy(image, create_sink("oci-archive", tmp_path / "b.tar"))
    assert first.has_blob(image.found[0].descriptor)
    first.abort()
    assert os.listdir(tmp_path) == ["b.tar"]


def test_members_are_found_without_reading_their_data(tmp_path):
    """An archive of hole after hole, 64 GiB of them, is listed at once."""
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 8}}).encode()
    manifest = [{"Config": "c", "Layers": [f"{n}.tar" for n in range(8)]}]
    with open(tmp_path / "a", "wb") as file:
        file.write(tar_of({"c": config, "manifest.json": json.dumps(manifest).encode()}).rstrip(b"\0"))
        file.seek(-(-file.tell() // 512) * 512)
        for n in range(8):
            info = tarfile.TarInfo(f"{n}.tar")
            info.size = 8 << 30
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.seek(8 << 30, os.SEEK_CUR)
        file.write(bytes(1024))
    (offer,) = open_source(tmp_path / "a", spool=tmp_path).offers()
    assert offer.descriptor.size > 0


class Recorder:
    """A progress that remembers, and cancels after ``limit`` bytes."""

    def __init__(self, limit: int = 1 << 60) -> None:
        self.limit = limit
        self.started: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []
        self.bytes: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}

    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        self.started.append((key, action))
        self.totals[key] = total

    def advance(self, key: str, amount: int) -> None:
        self.bytes[key] = self.bytes.get(key, 0) + amount
        if self.bytes[key] > self.limit:
            raise Cancelled("cancelled")

    def done(self, key: str, outcome: str = "done") -> None:
        self.ended.append((key, outcome))

    def note(self, text: str) -> None:
        pass


def test_writing_an_archive_is_reported(image, tmp_path):
    progress = Recorder()
    copy(image, create_sink("docker-archive", tmp_path / "a", progress=progress))
    assert [action for _, action in progress.started] == ["writing"] * 4
    assert progress.bytes == progress.totals
    assert {outcome for _, outcome in progress.ended} == {"done"}


def test_writing_an_archive_can_be_cancelled(image, tmp_path):
    with pytest.raises(Cancelled):
        copy(image, create_sink("docker-archive", tmp_path / "a", progress=Recorder(1000)))
    assert os.listdir(tmp_path) == []


def test_reading_what_must_be_decompressed_is_reported_and_can_be_cancelled(image, tmp_path):
    copy(image, create_sink("oci-archive", tmp_path / "a", compression=Compression.GZIP))
    progress = Recorder()
    open_source(tmp_path / "a", spool=tmp_path, progress=progress)
    assert progress.bytes == {str(tmp_path / "a"): (tmp_path / "a").stat().st_size}
    before = open_descriptors()
    with pytest.raises(Cancelled):
        open_source(tmp_path / "a", spool=tmp_path, progress=Recorder(100))
    assert (open_descriptors(), os.listdir(tmp_path)) == (before, ["a"])
