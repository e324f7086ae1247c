"""Root file systems in and out: import of a tar in any compression, export of an image or a snapshot."""

from __future__ import annotations

import io
import subprocess
from datetime import UTC, datetime

import pytest

from lamella import Compression, Platform, Recipe
from lamella.errors import InvalidInput, LamellaError, NotFound
from support import building
from support.needs import needs_root, needs_tool, tool
from support.trees import assert_same, read_directory, read_view

TREE = building.tar(
    building.directory("bin", 0o2755, owner=(1, 1)),
    building.file("bin/sh", "#!\n", mode=0o4755),
    building.hard_link("bin/bash", "bin/sh"),
    building.symlink("sbin", "bin"),
    building.file("f", "f" * 5000, xattrs={"user.a": "b"}),
    building.fifo("p"),
)
PACKERS = {"none": ["cat"], "gzip": ["gzip"], "bzip2": ["bzip2"], "xz": ["xz"], "zstd": ["zstd", "-q"]}


def packed(how, data=TREE):
    tool(PACKERS[how][0])
    return subprocess.run(PACKERS[how], input=data, capture_output=True, check=True).stdout


class TestImport:
    @pytest.mark.parametrize("how", PACKERS)
    def test_every_compression(self, store, disk, how):
        (disk / "rootfs").write_bytes(packed(how))
        image = store.import_rootfs(disk / "rootfs", "base")
        assert [str(diff_id) for diff_id in image.diff_ids] == [building.digest_of(TREE)]
        assert (image.names, image.parent, image.platform) == (["base:latest"], None, Platform.host())
        with image.layers[0].open() as blob:
            kept = blob.read() == packed(how)
        assert kept == (how not in ("bzip2", "xz"))

    def test_from_a_stream(self, store):
        image = store.import_rootfs(io.BytesIO(packed("gzip")))
        assert image.names == []
        assert image.stat("bin/bash").links == 2

    def test_what_the_recipe_says(self, store):
        recipe = Recipe(
            author="me",
            comment="mine",
            created=datetime(2024, 1, 1, tzinfo=UTC),
            changes=('CMD ["sh"]',),
            platform=Platform.parse("linux/arm64"),
            compression=Compression.ZSTD,
        )
        image = store.import_rootfs(io.BytesIO(packed("gzip")), "arm", recipe=recipe)
        assert image.config.config == {"Cmd": ["sh"]}
        assert (image.platform.architecture, image.created) == ("arm64", recipe.created)
        assert image.history()[0].comment == "mine"
        assert image.layers[0].media_type.endswith("+zstd")

    def test_the_same_again_is_the_same_image(self, store):
        recipe = Recipe(created=datetime(2024, 1, 1, tzinfo=UTC))
        first = store.import_rootfs(io.BytesIO(TREE), "one", recipe=recipe)
        assert store.import_rootfs(io.BytesIO(TREE), "two", recipe=recipe).digest == first.digest
        assert first.names == ["one:latest", "two:latest"]

    @pytest.mark.parametrize(
        "data", [TREE[:3000], b"no tar" * 200, packed("gzip")[:-9], building.tar(building.hard_link("a", "nothing"))]
    )
    def test_what_is_no_root_file_system_leaves_nothing(self, store, data):
        with pytest.raises(LamellaError):
            store.import_rootfs(io.BytesIO(data), "bad")
        assert store.images() == []
        assert store.gc(dry_run=True).items == []

    def test_a_file_that_is_not_there(self, store, disk):
        with pytest.raises(NotFound):
            store.import_rootfs(disk / "nothing", "bad")

    def test_a_name_that_is_none(self, store):
        with pytest.raises(InvalidInput):
            store.import_rootfs(io.BytesIO(TREE), "UPPER")
        assert store.images() == []


class TestExport:
    @needs_root
    @needs_tool("tar")
    def test_tar_unpacks_what_the_image_has(self, store, disk):
        image = store.import_rootfs(io.BytesIO(TREE), "base")
        out = io.BytesIO()
        store.export(image, out.write)
        (disk / "out").mkdir()
        command = ["tar", "xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", disk / "out"]
        subprocess.run(command, input=out.getvalue(), check=True)
        assert_same(read_directory(disk / "out"), read_view(image))

    def test_and_it_can_be_imported_again(self, store):
        image = store.import_rootfs(io.BytesIO(TREE), "base")
        out = io.BytesIO()
        store.export(image, out.write)
        again = store.import_rootfs(io.BytesIO(out.getvalue()), "again")
        assert_same(read_view(again), read_view(image))
        out_again = io.BytesIO()
        store.export(again, out_again.write)
        assert out_again.getvalue() == out.getvalue()

    def test_of_several_layers_nothing_is_left_that_was_deleted(self, store, disk):
        store.load(building.layout(disk / "l", [TREE, building.tar(building.gone("f"), building.opaque("bin"))]))
        out = io.BytesIO()
        store.export(store.image("it"), out.write)
        names = [info.path for info in store.import_rootfs(io.BytesIO(out.getvalue()), "flat").walk()]
        assert names == [b"", b"bin", b"p", b"sbin"]

    def test_of_a_snapshot_with_what_was_written(self, store, driver):
        store.import_rootfs(io.BytesIO(TREE), "base")
        snapshot = store.prepare("base", driver=driver)
        with snapshot.mount() as root:
            (root / "new").write_text("new")
            (root / "f").unlink()
        out = io.BytesIO()
        store.export(snapshot, out.write)
        flat = store.import_rootfs(io.BytesIO(out.getvalue()), "flat")
        assert_same(read_view(flat), read_view(snapshot.files))

    def test_times_after_a_bound_become_it(self, store):
        image = store.import_rootfs(io.BytesIO(TREE), "base")
        out = io.BytesIO()
        store.export(image, out.write, clamp=1_000_000_000)
        flat = store.import_rootfs(io.BytesIO(out.getvalue()), "flat")
        assert {info.mtime for info in flat.walk()} == {1_000_000_000 * 10**9, 0}
