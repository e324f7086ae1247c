"""What a commit makes: the layer, the documents, and the same bytes every time."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from datetime import UTC, datetime

import pytest

import lamella
from lamella import Compression, Recipe
from lamella.errors import InvalidInput
from support import building, peers
from support.needs import needs_root, needs_tool
from support.noted import Noted
from support.trees import assert_same, read_directory, read_view

NOON = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)
BASE = building.tar(
    building.directory("d", owner=(1, 2)),
    building.directory("d/deep"),
    building.file("d/deep/a", "a\n"),
    building.file("d/deep/b", "b\n"),
    building.file("d/deep/c", "c\n"),
    building.file("kept", "kept\n"),
    building.file("one", "linked\n"),
    building.hard_link("two", "one"),
)


@pytest.fixture
def image(store, disk):
    config = {"config": {"Cmd": ["/bin/old"], "Env": ["A=1"]}, "x-unknown": [1, {"b": 2}], "author": "them"}
    store.load(building.layout(disk / "base", [BASE], tag="base", config=config))
    return store.image("base")


@pytest.fixture
def snapshot(store, image):
    """Changed with the driver copy, which every machine has."""
    made = store.prepare(image, "work", driver="copy")
    (made.upper / "d/deep/b").unlink()
    (made.upper / "d/deep/aa").write_text("aa\n")
    (made.upper / "new").write_text("new\n" * 1000)
    return made


def members(image):
    """The members of the last layer, as Python's tarfile reads the blob."""
    with image.layers[-1].open() as blob:
        data = blob.read()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(member, member.name.removeprefix("./")) for member in archive]


class TestLayer:
    def test_has_the_changes_and_the_directories_above_them(self, snapshot):
        names = [name for _, name in members(snapshot.commit())]
        assert names == [".", "d", "d/deep", "d/deep/.wh.b", "d/deep/aa", "new"]

    def test_a_whiteout_is_an_empty_file(self, snapshot):
        (whiteout,) = [member for member, name in members(snapshot.commit()) if ".wh." in name]
        assert (whiteout.type, whiteout.size, whiteout.mode) == (tarfile.REGTYPE, 0, 0o644)

    def test_directories_have_their_owners(self, snapshot):
        (directory,) = [member for member, name in members(snapshot.commit()) if name == "d"]
        assert (directory.uid, directory.gid, directory.mode) == (1, 2, 0o755)

    def test_a_new_link_to_an_unchanged_file_stays_a_link(self, store, image, driver):
        """umoci makes a copy of it; podman keeps it only if the file system did."""
        snapshot = store.prepare(image, driver=driver)
        with snapshot.mount() as root:
            os.link(root / "kept", root / "d/zz-link")
            os.link(root / "kept", root / "a-link")
        child = snapshot.commit()
        links = [(name, member.linkname) for member, name in members(child) if member.islnk()]
        assert links == [("a-link", "kept"), ("d/zz-link", "kept")]
        assert child.stat("kept").links == 3
        assert len({child.stat(path).inode for path in ("kept", "a-link", "d/zz-link")}) == 1

    def test_new_files_with_several_names_are_stored_once(self, snapshot):
        os.link(snapshot.upper / "new", snapshot.upper / "d/same")
        stored = [(name, member.type) for member, name in members(snapshot.commit()) if name in ("new", "d/same")]
        assert stored == [("d/same", tarfile.REGTYPE), ("new", tarfile.LNKTYPE)]

    def test_a_file_replaced_by_a_directory_needs_no_whiteout(self, snapshot):
        (snapshot.upper / "kept").unlink()
        (snapshot.upper / "kept").mkdir()
        child = snapshot.commit()
        assert ".wh.kept" not in [name for _, name in members(child)]
        assert child.stat("kept").is_dir

    def test_a_sparse_file_stays_sparse(self, snapshot):
        with (snapshot.upper / "sparse").open("wb") as file:
            file.seek(50 << 20)
            file.write(b"end")
        child = snapshot.commit(recipe=Recipe(compression=Compression.NONE))
        assert child.layers[-1].size < 100_000
        assert child.stat("sparse").size == (50 << 20) + 3
        with child.open("sparse") as stream:
            stream.seek(-4, os.SEEK_END)
            assert stream.read() == b"\0end"

    def test_a_socket_is_left_out_with_a_note(self, snapshot):
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            cwd = os.getcwd()
            os.chdir(snapshot.upper)
            try:
                server.bind("listening")
            finally:
                os.chdir(cwd)
        noted = Noted()
        child = snapshot.commit(progress=noted)
        assert not child.exists("listening")
        assert any("listening" in note for note in noted.notes)

    def test_a_name_that_would_be_a_whiteout_is_refused(self, snapshot):
        (snapshot.upper / ".wh.kept").touch()
        with pytest.raises(InvalidInput) as refused:
            snapshot.commit()
        assert refused.value.code == "whiteout-like-name"
        assert refused.value.entry == b".wh.kept"


class TestDocuments:
    def test_what_nobody_knows_is_kept(self, snapshot):
        fields = json.loads(snapshot.commit().config.raw)
        assert fields["x-unknown"] == [1, {"b": 2}]
        assert fields["author"] == "them"
        assert fields["config"] == {"Cmd": ["/bin/old"], "Env": ["A=1"]}

    def test_author_and_comment(self, snapshot):
        child = snapshot.commit(author="me", comment="why")
        assert child.config.fields["author"] == "me"
        assert child.config.fields["history"][-1]["author"] == "me"
        assert child.config.fields["history"][-1]["comment"] == "why"
        assert child.created is not None

    def test_changes_to_how_it_runs(self, snapshot):
        changes = (
            'CMD ["/bin/new", "-x"]',
            "ENTRYPOINT run it",
            "ENV A=2 B='two words'",
            "EXPOSE 80 53/udp",
            "LABEL one=1",
            "ONBUILD RUN x",
            "STOPSIGNAL SIGINT",
            "USER me:us",
            "VOLUME /data",
            "WORKDIR /srv",
            "WORKDIR app",
            'CMD ["last"]',
        )
        run = snapshot.commit(recipe=Recipe(changes=changes)).config.config
        assert run == {
            "Cmd": ["last"],
            "Entrypoint": ["/bin/sh", "-c", "run it"],
            "Env": ["A=2", "B=two words"],
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
            "Labels": {"one": "1"},
            "OnBuild": ["RUN x"],
            "StopSignal": "SIGINT",
            "User": "me:us",
            "Volumes": {"/data": {}},
            "WorkingDir": "/srv/app",
        }

    @pytest.mark.parametrize("change", ["FROM x", "CMD", "EXPOSE x", "ENV =1", "LABEL", "STOPSIGNAL now"])
    def test_changes_that_make_no_sense(self, snapshot, store, change):
        with pytest.raises(InvalidInput):
            snapshot.commit("child", recipe=Recipe(changes=(change,)))
        assert not store.exists("child")
        assert store.gc(dry_run=True).items == []

    def test_a_name_that_is_none(self, snapshot, store):
        with pytest.raises(InvalidInput):
            snapshot.commit("No/Name")
        assert len(store.images()) == 1

    @pytest.mark.parametrize(
        ("compression", "suffix"), [(Compression.NONE, ""), (Compression.GZIP, "+gzip"), (Compression.ZSTD, "+zstd")]
    )
    def test_the_media_type_says_how_the_layer_is_compressed(self, snapshot, compression, suffix):
        child = snapshot.commit(recipe=Recipe(compression=compression))
        assert child.layers[-1].media_type == f"application/vnd.oci.image.layer.v1.tar{suffix}"
        assert child.manifest.media_type == "application/vnd.oci.image.manifest.v1+json"

    def test_a_child_of_a_docker_image_is_a_docker_image(self, store, real_layout):
        store.load(real_layout("semantics/whiteout-opaque"), name="docker")
        snapshot = store.prepare("docker", driver="copy")
        (snapshot.upper / "new").touch()
        child = snapshot.commit()
        assert child.manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert child.layers[-1].media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip"
        zstd = snapshot.commit(recipe=Recipe(compression=Compression.ZSTD))
        assert zstd.manifest.media_type == "application/vnd.oci.image.manifest.v1+json"
        assert {layer.media_type.rpartition("+")[0] for layer in zstd.layers} == {
            "application/vnd.oci.image.layer.v1.tar"
        }


class TestTheSameBytes:
    @pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
    def test_the_same_tree_gives_the_same_digests(self, snapshot, disk, compression):
        recipe = Recipe(author="me", comment="why", created=NOON, clamp=1_700_000_000, compression=compression)
        first = snapshot.commit(recipe=recipe)
        assert snapshot.commit(recipe=recipe).digest == first.digest
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "base")
            again = other.prepare("base", driver="copy")
            (again.upper / "new").write_text("new\n" * 1000)
            (again.upper / "d/deep/aa").write_text("aa\n")
            (again.upper / "d/deep/b").unlink()
            assert again.commit(recipe=recipe).digest == first.digest

    def test_newer_times_become_the_bound_and_older_ones_stay(self, snapshot):
        os.utime(snapshot.upper / "d/deep/aa", ns=(5, 1_000_000_000_123_456_789))
        child = snapshot.commit(recipe=Recipe(created=NOON, clamp=1_500_000_000))
        assert child.stat("new").mtime == 1_500_000_000 * 10**9
        assert child.stat("d/deep/aa").mtime == 1_000_000_000_123_456_789

    def test_levels_differ_and_hold_the_same_tar(self, snapshot):
        fast = snapshot.commit(recipe=Recipe(created=NOON, clamp=0, level=1))
        best = snapshot.commit(recipe=Recipe(created=NOON, clamp=0, level=9))
        assert fast.diff_ids == best.diff_ids
        assert fast.digest != best.digest


@needs_root
@needs_tool("umoci", "skopeo", "podman")
def test_peers_read_what_was_committed(store, disk):
    """Everything that a layer can say, said by Lamella: umoci and podman unpack it as it was.

    Podman gives no image back whose layers have sparse files in the way that tar writes them; it unpacks them.
    """
    store.load(building.layout(disk / "base", [BASE], tag="base"))
    snapshot = store.prepare("base", driver="overlay")
    with snapshot.mount() as root:
        _everything(root)
        expected = read_directory(root)
    child = snapshot.commit("child:1")
    assert_same(read_view(child), expected)
    store.save(["child:1"], disk / "saved", format="oci-dir")
    unpacked = peers.umoci_unpack(disk / "saved", disk / "umoci", "child:1")
    assert_same(read_directory(unpacked), expected)
    store.save(["child:1"], disk / "archive", format="oci-archive")
    peers.run("skopeo", "copy", "--quiet", f"oci-archive:{disk / 'archive'}:child:1", f"dir:{disk / 'dir'}")
    with peers.Podman(disk, "overlay") as podman:
        podman("load", "--input", disk / "archive")
        (found,) = json.loads(podman("images", "--no-trunc", "--format", "json"))
        assert found["Id"] == child.id.hex
        podman("save", "--quiet", "--format", "oci-dir", "--output", disk / "back", found["Id"])
    with lamella.Store.open(disk / "other") as other:
        (loaded,) = other.load(disk / "back")
        assert loaded.id == child.id
        assert_same(read_view(other.image(child.id.hex)), expected)


def _everything(root):
    (root / "d/deep/a").unlink()
    (root / "d/deep/b").unlink()
    (root / "d/deep/b").mkdir()
    (root / "d/deep/b/inside").write_text("inside")
    (root / "kept").chmod(0o4711)
    os.chown(root / "kept", 70_000, 1)
    os.setxattr(root / "kept", "user.x", b"\0y")
    (root / "sub").mkdir(0o1777)
    os.symlink("../kept", root / "sub/link")
    os.mkfifo(root / "sub/fifo")
    os.mknod(root / "sub/null", 0o020666, os.makedev(1, 3))
    (root / ("n" * 200)).write_text("long")
    (root / "sub/caf\u00e9").write_text("not ASCII")
    os.utime(root / "sub/caf\u00e9", ns=(1, 1_234_567_890_123_456_789))
