"""Merging and comparing run configurations, and the init layer."""

from __future__ import annotations

import os

import pytest
from graph_support import layer

from lamella import errors
from lamella.formats.docker_graph import Config
from lamella.formats.docker_graph.config import V0_4_0, V1_0_0, merge, same
from lamella.formats.docker_graph.initlayer import paths, populate
from lamella.formats.docker_graph.prepared import prepare
from support.building import directory, file
from support.needs import needs_root


class TestMerge:
    def test_what_is_empty_is_filled(self):
        image = Config.of(
            Hostname="h", User="u", Memory=1, MemorySwap=2, CpuShares=3, PortSpecs=["80"], Tty=True, OpenStdin=True,
            StdinOnce=True, Env=["A=1"], Cmd=["sh"], Dns=["8.8.8.8"],
        )  # fmt: skip
        assert merge(Config(), image) == image

    def test_what_the_user_says_stays_and_environments_are_not_joined(self):
        user = Config.of(User="me", Env=["B=2"], Cmd=["ls"], Memory=5)
        image = Config.of(User="u", Env=["A=1"], Cmd=["sh"], Memory=1, Image="x", Volumes=["/v"], AttachStdin=True)
        assert merge(user, image) == user

    def test_host_names_and_name_servers_stop_being_taken(self):
        image = Config.of(Hostname="h", Dns=["d"])
        assert merge(Config(), image, release=(0, 5, 0)) == Config.of(Dns=["d"])
        assert merge(Config(), image, release=(0, 10, 0)) == Config()

    def test_1_0_joins_environments_the_users_first(self):
        user, image = Config.of(Env=["A=mine", "C"]), Config.of(Env=["A=1", "B=2", "C=3"])
        assert merge(user, image, release=V1_0_0)["Env"] == ("A=mine", "C", "B=2")

    def test_1_0_unites_ports_and_volumes(self):
        user = Config.of(PortSpecs=["8080:80", "53/udp"], Volumes=["/a"])
        image = Config.of(PortSpecs=["127.0.0.1:1:22"], ExposedPorts=["443/tcp"], Volumes=["/b"])
        merged = merge(user, image, release=V1_0_0)
        assert merged["ExposedPorts"] == {"80/tcp", "53/udp", "22/tcp", "443/tcp"}
        assert merged["PortSpecs"] is None
        assert merged["Volumes"] == {"/a", "/b"}

    def test_a_commit_with_a_new_command_keeps_the_environment(self):
        container = Config.of(Env=["A=1"], Cmd=["sh"])
        merged = merge(Config.of(Cmd=["ls"]), container, release=V1_0_0)
        assert (merged["Env"], merged["Cmd"]) == (("A=1",), ("ls",))


class TestCompare:
    def test_equal(self):
        left = Config.of(
            User="u", Cmd=["a", "b"], Env=["X=1"], Hostname="one", Image="a", Volumes=["/v"], StdinOnce=True
        )
        right = Config.of(User="u", Cmd=["a", "b"], Env=["X=1"], Hostname="two", Image="b", AttachStdin=True)
        assert same(left, right)
        assert same(Config.of(Cmd=[]), Config())

    @pytest.mark.parametrize("other", [None, Config.of(OpenStdin=True)])
    def test_never_equal(self, other):
        assert not same(other, other)
        assert not same(Config(), other)

    @pytest.mark.parametrize("release", [V0_4_0, V1_0_0])
    @pytest.mark.parametrize(
        "values",
        [
            {"AttachStdout": True}, {"AttachStderr": True}, {"User": "u"}, {"Memory": 1}, {"MemorySwap": 1},
            {"Tty": True}, {"CpuShares": 1}, {"Cmd": ["b", "a"]}, {"Env": ["B"]}, {"PortSpecs": ["1"]},
        ],
    )  # fmt: skip
    def test_what_counts(self, release, values):
        assert not same(Config.of(Cmd=["a", "b"]), Config.of(**{"Cmd": ["a", "b"], **values}), release=release)

    @pytest.mark.parametrize(
        ("values", "counts"),
        [
            ({"Dns": ["d"]}, V0_4_0),
            ({"Entrypoint": ["e"]}, V1_0_0),
            ({"ExposedPorts": ["1"]}, V1_0_0),
            ({"Volumes": ["/v"]}, V1_0_0),
        ],
    )
    def test_what_counts_in_one_release_only(self, values, counts):
        for release in (V0_4_0, V1_0_0):
            assert same(Config(), Config.of(**values), release=release) == (release != counts)


class TestInitLayer:
    def test_the_paths_of_each_release(self):
        base = {
            b"dev/pts",
            b"dev/shm",
            b"proc",
            b"sys",
            b".dockerinit",
            b"etc/resolv.conf",
            b"etc/hosts",
            b"etc/hostname",
        }
        console, mtab = {b"dev/console"}, {b"etc/mtab"}
        for release in ((0, 6, 0), (0, 6, 5), (0, 7, 0), (0, 8, 1)):
            assert set(paths(release)) == base
        for release in ((0, 6, 6), (0, 6, 7)):
            assert set(paths(release)) == base | {b".dockerenv"}
        for release in ((0, 9, 0), (0, 9, 1)):
            assert set(paths(release)) == base | console
        for release in ((0, 10, 0), V1_0_0):
            assert set(paths(release)) == base | console | mtab
        assert paths() == paths(V1_0_0)

    @pytest.mark.parametrize("release", [(0, 6, 5), (0, 6, 7), (0, 8, 1), (0, 9, 1), (0, 10, 0)])
    def test_what_is_made_for_each_release(self, tmp_path, release):
        populate(tmp_path, release=release)
        made = {os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        assert made - {b"dev", b"etc"} == set(paths(release))

    def test_populating(self, tmp_path):
        os.umask(0o077)
        try:
            populate(tmp_path)
            populate(tmp_path)
        finally:
            os.umask(0o022)
        modes = {
            name: (tmp_path / name).lstat().st_mode & 0o777 for name in ("dev", "dev/pts", "etc/hosts", "dev/console")
        }
        assert set(modes.values()) == {0o755}
        assert (tmp_path / "etc/hosts").read_bytes() == b""
        assert os.readlink(tmp_path / "etc/mtab") == "/proc/mounts"

    def test_what_is_in_the_way_is_replaced_and_nothing_outside_is_touched(self, tmp_path):
        outside, root = tmp_path / "outside", tmp_path / "root"
        (outside / "pts").mkdir(parents=True)
        (outside / "hosts").write_text("precious")
        root.mkdir()
        (root / "etc").symlink_to(outside)
        (root / "dev").mkdir()
        (root / "dev/pts").symlink_to(outside / "pts")
        (root / "proc").write_text("a file")
        populate(root)
        assert (outside / "hosts").read_text() == "precious"
        assert sorted(os.listdir(outside)) == ["hosts", "pts"]
        assert not (root / "etc").is_symlink()
        assert not (root / "dev/pts").is_symlink()
        assert (root / "proc").is_dir()

    def test_files_and_links_of_the_image_give_way(self, tmp_path):
        (tmp_path / "root/etc").mkdir(parents=True)
        (tmp_path / "outside").write_text("precious")
        root = tmp_path / "root"
        (root / "etc/hosts").write_text("the image's")
        (root / "etc/hostname").symlink_to(tmp_path / "outside")
        (root / "etc/mtab").write_text("the image's")
        populate(root)
        for name in ("etc/hosts", "etc/hostname"):
            assert (root / name).read_bytes() == b""
            assert not (root / name).is_symlink()
        assert os.readlink(root / "etc/mtab") == "/proc/mounts"
        assert (tmp_path / "outside").read_text() == "precious"

    def test_a_directory_at_the_end_stays(self, tmp_path):
        (tmp_path / "etc/hosts").mkdir(parents=True)
        (tmp_path / "etc/mtab").mkdir()
        populate(tmp_path)
        assert (tmp_path / "etc/hosts").is_dir()
        assert (tmp_path / "etc/mtab").is_dir()

    def test_there_was_none_before(self, tmp_path):
        with pytest.raises(errors.Unsupported):
            populate(tmp_path, release=(0, 5, 3))

    @needs_root
    def test_it_stands_between_image_and_container_and_is_no_change(self, graph, disk):
        base = graph.create(layer(directory("etc", 0o750), file("etc/hosts", "the image's"), file("etc/other")))
        prepared = prepare(base, disk / "container", init=V1_0_0)
        prepared.mount()
        try:
            assert (prepared.root / "etc/hosts").read_bytes() == b""
            assert (prepared.root / "etc/other").exists()
            assert (prepared.root / "etc").stat().st_mode & 0o7777 == 0o750, "as the image has it"
            (prepared.root / "etc/new").touch()
            assert [str(change) for change in prepared.changes()] == ["C /etc", "A /etc/new"]
        finally:
            prepared.unmount()
        with pytest.raises(errors.AlreadyExists):
            prepare(base, disk / "container")

    def test_one_that_was_not_finished_is(self, graph, disk):
        """As that of a process that was killed; ``rw`` is what comes last."""
        base = graph.create(None)
        with pytest.raises(errors.Unsupported):
            prepare(base, disk / "container", init=(0, 5, 0))
        assert prepare(base, disk / "container", init=V1_0_0).layers[1:] == (base.layer(),)
