"""Finding files over every image: by path, by content; and equal files told from others."""

from __future__ import annotations

import io

import pytest

import lamella
from lamella.errors import Integrity
from lamella.layers.ingest import TAR_NAME
from lamella.spec.digest import Digest
from lamella.testing import refuses
from support import building

SAME = b"the same content" * 500
BASE = building.tar(
    building.directory("bin"), building.file("bin/tool", SAME), building.hard_link("bin/alias", "bin/tool"),
    building.file("etc/conf", "a = 1\n"), building.file("empty"), building.symlink("link", "bin/tool"),
)  # fmt: skip
HIDES = building.tar(building.gone("bin/tool"), building.file("opt/copy", SAME), building.file("etc/conf", "a = 2\n"))
OTHER = building.tar(building.file("other/tool", SAME), building.file("other/conf", "a = 1\n"))


@pytest.fixture
def stored(store, disk):
    for tag, layers in (("base", [BASE]), ("child", [BASE, HIDES]), ("other", [OTHER])):
        store.load(building.layout(disk / tag, layers, tag=tag))
    return store


def where(found):
    return sorted((item.image.names[0].removesuffix(":latest"), item.file.path.decode()) for item in found)


class TestContent:
    def test_every_name_that_an_image_shows_is_found(self, stored):
        assert where(stored.find_content(Digest.of(SAME))) == [
            ("base", "bin/alias"),
            ("base", "bin/tool"),
            ("child", "bin/alias"),
            ("child", "opt/copy"),
            ("other", "other/tool"),
        ]

    def test_what_a_higher_layer_hides_is_not_found(self, stored):
        assert where(stored.find_content(Digest.of(b"a = 1\n"))) == [("base", "etc/conf"), ("other", "other/conf")]
        assert where(stored.find_content(Digest.of(b"a = 2\n"))) == [("child", "etc/conf")]

    def test_empty_files_are_found(self, stored):
        assert where(stored.find_content(Digest.of(b""))) == [("base", "empty"), ("child", "empty")]

    def test_nothing_is_found_of_what_is_not_there(self, stored):
        assert list(stored.find_content(Digest.of(b"not there"))) == []

    def test_only_the_images_that_are_asked_for_are_hashed(self, stored):
        other = stored.image("other")
        assert where(stored.find_content(Digest.of(SAME), images=[other])) == [("other", "other/tool")]
        assert stored.image("base").stat("bin/tool").digest is None
        assert other.stat("other/tool").digest == Digest.of(SAME)

    def test_files_are_hashed_once(self, stored):
        assert stored.add_file_digests() == 3
        assert stored.add_file_digests() == 0
        with lamella.Store.open(stored.root) as again:
            assert again.add_file_digests() == 0
            assert again.image("base").stat("bin/alias").digest == Digest.of(SAME)
            assert again.image("base").stat("link", follow=False).digest is None

    def test_stores_that_were_open_before_see_them(self, stored):
        with lamella.Store.open(stored.root) as before:
            assert before.image("base").stat("bin/tool").digest is None
            stored.add_file_digests()
            assert before.add_file_digests() == 0
            assert len(list(before.find_content(Digest.of(SAME)))) == 5

    def test_a_tar_that_was_dropped_is_made_again_for_it(self, stored):
        stored.prune(trees=True)
        assert len(list(stored.find_content(Digest.of(SAME)))) == 5
        stored.prune(trees=True)
        assert len(list(stored.find_content(Digest.of(SAME)))) == 5
        assert not (stored.layers.path(stored.image("base").diff_ids[0]) / TAR_NAME).exists()

    def test_damage_is_not_hashed(self, disk):
        with lamella.Store.open(disk / "damaged") as store:
            store.load(building.layout(disk / "layout", [BASE], tag="base"))
            with (store.layers.path(store.image("base").diff_ids[0]) / TAR_NAME).open("r+b") as tar:
                tar.seek(2000)
                tar.write(b"!")
            with refuses(Integrity, "layer-damaged"):
                store.find_content(Digest.of(SAME))
            assert store.image("base").stat("bin/tool").digest is None


class TestWhileLoading:
    def test_files_are_hashed_as_they_come(self, store, disk, driver):
        sparse = building.tar(building.file("large", bytes(range(256)) * 4_000), building.file("tail", b"t"))
        with lamella.Store.open(store.root, file_digests=True) as hashing:
            hashing.load(building.layout(disk / "layout", [BASE, sparse], tag="it"))
            hashing.import_rootfs(io.BytesIO(OTHER), "imported")
            with hashing.prepare("it", "s", driver=driver) as snapshot, snapshot.mount() as root:
                (root / "new").write_bytes(SAME)
            snapshot.commit("child")
            snapshot.remove()
        assert store.add_file_digests() == 0
        for image in store.images():
            for info in image.walk():
                if info.kind.name == "REGULAR":
                    with image.open(info.path) as file:
                        assert info.digest == Digest.of(file.read())

    def test_what_was_hashed_is_hashed_again_when_it_is_rebuilt(self, stored):
        stored.add_file_digests()
        image = stored.image("base")
        (stored.layers.path(image.diff_ids[0]) / TAR_NAME).unlink()
        with lamella.Store.open(stored.root) as other:
            assert other.image("base").open("bin/tool").read() == SAME
        with lamella.Store.open(stored.root) as other:
            assert other.add_file_digests() == 0

    def test_the_index_is_what_hashing_afterwards_makes(self, store, disk):
        layout = building.layout(disk / "layout", [BASE], tag="it")
        with lamella.Store.open(disk / "one", file_digests=True) as one:
            one.load(layout)
        store.load(layout)
        store.add_file_digests()
        name = store.image("it").diff_ids[0].hex
        parts = [root / "layers" / name / "layer.index" for root in (disk / "one", store.root)]
        assert parts[0].read_bytes() == parts[1].read_bytes()


class TestPath:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("tool", [("base", "bin/tool"), ("other", "other/tool")]),
            ("t*l", [("base", "bin/tool"), ("other", "other/tool")]),
            ("/bin/tool", [("base", "bin/tool")]),
            ("*/conf", [("base", "etc/conf"), ("child", "etc/conf"), ("other", "other/conf")]),
            ("/opt", [("child", "opt")]),
            ("/tool", []),
            ("opt", [("child", "opt")]),
            ("TOOL", []),
            ("", []),
        ],
    )
    def test_names_and_paths(self, stored, pattern, found):
        assert where(stored.find_path(pattern)) == found

    def test_names_are_bytes(self, store, disk):
        store.load(building.layout(disk / "layout", [building.tar(building.file("caf\xe9"), building.file("x[1]"))]))
        for pattern in ("caf?*", "caf\xe9", "x[[]1]"):
            assert len(list(store.find_path(pattern))) == 1


class TestDuplicates:
    def test_equal_files_are_counted_over_layers(self, stored):
        found = stored.duplicates()
        # tool, copy and tool are one content; conf and conf another; the hard link is no file of its own.
        assert (found.files, found.equal_files) == (6, 3)
        assert found.equal_size == 2 * len(SAME) + 6
        assert found.size == 3 * len(SAME) + 3 * 6
        assert [(item.digest, item.copies, item.path) for item in found.largest] == [
            (Digest.of(SAME), 3, b"bin/tool"),
            (Digest.of(b"a = 1\n"), 2, b"etc/conf"),
        ]
        assert found.largest[0].excess == 2 * len(SAME)

    def test_an_empty_store_has_none(self, store):
        assert store.duplicates().largest == ()
