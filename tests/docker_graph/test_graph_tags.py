"""Names of images: the file ``repositories``, what may be in it, and what becomes of it when it is damaged."""

from __future__ import annotations

import json
import os
import threading

import pytest
from graph_support import image

from lamella import errors
from lamella.formats.docker_graph import Graph, TagStore, parse_repository_tag

HEAD = '{"Repositories":'


@pytest.fixture
def two(graph):
    """Two images whose ids begin differently."""
    return graph.register(image("aa" * 32), None), graph.register(image("bb" * 32), None)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("root", ("root", "")),
            ("root:tag", ("root", "tag")),
            ("user/repo", ("user/repo", "")),
            ("user/repo:tag", ("user/repo", "tag")),
            ("url:5000/repo", ("url:5000/repo", "")),
            ("url:5000/repo:tag", ("url:5000/repo", "tag")),
        ],
    )
    def test_parsing(self, name, parts):
        assert parse_repository_tag(name) == parts

    @pytest.mark.parametrize(
        ("repository", "tag", "text"),
        [
            ("", "t", "Repository name can't be empty"),
            ("a:b", "t", "Illegal repository name: a:b"),
            ("weird name!", "t", "Illegal repository name: weird name!"),
            ("Uppercase/../x", "t", "Illegal repository name: Uppercase/../x"),
            ("/a", "t", "Illegal repository name"),
            ("a//b", "t", "Illegal repository name"),
            ("host:port/a", "t", "Illegal repository name"),
            ("host:5000", "t", "Illegal repository name"),
            ("a" * 256, "t", "Illegal repository name"),
            ("r", "a/b", "Illegal tag name (a/b)"),
            ("r", "a:b", "Illegal tag name (a:b)"),
            ("r", "-a", "Illegal tag name (-a)"),
            ("r", "weird name!", "Illegal tag name"),
            ("r", "a" * 129, "Illegal tag name"),
            ("r", "é", "Illegal tag name"),
            ("r", "a\n", "Illegal tag name"),
        ],
    )
    def test_what_can_be_none(self, graph, two, repository, tag, text):
        with pytest.raises(errors.InvalidInput) as caught:
            graph.tags.set(repository, tag, two[0].id)
        assert text in str(caught.value)
        assert not graph.tags.path.exists()

    @pytest.mark.parametrize(
        "repository", ["base", "user/repo", "localhost:5000/a/b", "utest:5000/docker", "A.b-c_d", "x.y/z"]
    )
    def test_what_can(self, graph, two, repository):
        graph.tags.set(repository, "v1.0_a-B", two[0].id)
        assert graph.tags.lookup(f"{repository}:v1.0_a-B").id == two[0].id


class TestSet:
    def test_the_file(self, graph, two):
        graph.tags.set("b", "x", two[0].id)
        graph.tags.set("a", "", two[1].short_id)
        expected = HEAD + f'{{"a":{{"latest":"{two[1].id}"}},"b":{{"x":"{two[0].id}"}}}}}}'
        assert graph.tags.path.read_text() == expected
        assert graph.tags.path.stat().st_mode & 0o777 == 0o600
        assert graph.tags.path == graph.layout.home / "repositories"

    def test_a_name_that_another_image_has_is_kept_unless_forced(self, graph, two):
        graph.tags.set("r", "t", two[0].id)
        graph.tags.set("r", "t", two[0].id)
        with pytest.raises(errors.Conflict) as caught:
            graph.tags.set("r", "t", two[1].id)
        assert (
            f"Conflict: Tag t is already set to image {two[0].id}, if you want to replace it, please use -f option"
            in str(caught.value)
        )
        graph.tags.set("r", "t", two[1].id, force=True)
        assert graph.tags.get("r", "t").id == two[1].id

    def test_the_image_must_be_there(self, graph):
        with pytest.raises(errors.NotFound, match="Image does not exist: nothing"):
            graph.tags.set("r", "a", "nothing")

    def test_a_name_by_another_name(self, graph, two):
        graph.tags.set("r", "one", two[0].id)
        graph.tags.set("s", "two", "r:one")
        assert graph.tags.names(two[0].id) == ["r:one", "s:two"]

    def test_many_at_once(self, graph, two):
        def work(number):
            for turn in range(10):
                Graph.open(graph.root).tags.set(f"r{number}", f"t{turn}", two[0].id)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {name: len(tags) for name, tags in graph.tags.repositories.items()} == {f"r{n}": 10 for n in range(4)}


class TestLookup:
    def test_upstream(self, graph):
        """docker's TestLookupImage: the image's whole id after the colon is one of its names."""
        made = graph.register(image("f0" * 32), None)
        graph.tags.set("myapp", "", made.id)
        for name in ("myapp", "myapp:latest", "myapp:", made.id, f"myapp:{made.id}"):
            assert graph.tags.lookup(name).id == made.id, name
        for name in ("myapp:fail", "fail:fail", "fail", "", ":", "myapp:f0f0", "myapp/x"):
            with pytest.raises(errors.NotFound) as caught:
                graph.tags.lookup(name)
            assert f"Image does not exist: {name}" in str(caught.value)

    def test_a_tag_that_is_the_beginning_of_an_id_is_a_tag(self, graph, two):
        graph.tags.set("base", "x", two[1].id)
        assert graph.tags.get("base", "bb") is None
        with pytest.raises(errors.NotFound):
            graph.tags.lookup("base:bb")

    def test_a_name_comes_before_the_beginning_of_an_id_and_after_a_whole_one(self, graph, two):
        graph.tags.set("bb", "latest", two[0].id)
        assert graph.tags.lookup("bb").id == two[0].id
        assert graph.tags.lookup("bbb").id == two[1].id
        graph.tags.set(two[1].id, "latest", two[0].id)
        assert graph.tags.lookup(two[1].id).id == two[1].id

    def test_registries_with_ports(self, graph, two):
        graph.tags.set("host:5000/x", "t", two[0].id)
        graph.tags.set("host:5000/x", "latest", two[1].id)
        assert graph.tags.lookup("host:5000/x:t").id == two[0].id
        assert graph.tags.lookup("host:5000/x").id == two[1].id
        graph.tags.set("y", "t", two[0].id)
        assert graph.tags.delete_all(two[0].id) == ["host:5000/x:t", "y:t"]
        assert graph.tags.repositories == {"host:5000/x": {"latest": two[1].id}}
        assert graph.tags.delete_all(two[0].id) == []

    def test_a_tag_of_an_image_that_is_gone(self, graph):
        id = "cc" * 32
        graph.tags.path.write_text(HEAD + f'{{"r":{{"latest":"{id}"}}}}}}')
        with pytest.raises(errors.NotFound, match=f"No such id: {id}"):
            graph.tags.get("r")
        with pytest.raises(errors.NotFound, match=id):
            graph.tags.lookup("r")

    def test_absent_is_none(self, graph, two):
        assert graph.tags.get("r", "t") is None
        graph.tags.set("r", "t", two[0].id)
        assert graph.tags.get("r") is None
        assert graph.tags.get("r", "t") == two[0]

    def test_names_of_an_image(self, graph, two):
        for repository, tag in (("z", "1"), ("a", "2"), ("z", "0")):
            graph.tags.set(repository, tag, two[0].id)
        assert graph.tags.by_id() == {two[0].id: ["a:2", "z:0", "z:1"]}
        assert graph.tags.image_name(two[0].id) == "a:2"
        assert graph.tags.image_name(two[1].id) == "bbbbbbbbbbbb"


class TestDelete:
    def test_one_and_all(self, graph, two):
        for tag in ("1", "2"):
            graph.tags.set("r", tag, two[0].id)
        graph.tags.set("s", "1", two[0].id)
        assert graph.tags.delete("r", "1") == ["r:1"]
        with pytest.raises(errors.NotFound, match="No such tag: r:1"):
            graph.tags.delete("r", "1")
        with pytest.raises(errors.NotFound, match="No such repository: q"):
            graph.tags.delete("q", "1")
        assert graph.tags.delete("r") == ["r:2"]
        assert graph.tags.delete("s", "1") == ["s:1"]
        assert graph.tags.path.read_text() == HEAD + "{}}"

    def test_a_repository_that_another_process_removed_is_gone(self, graph, two):
        graph.tags.set("r", "t", two[0].id)
        graph.tags.path.write_text(HEAD + "{}}")
        assert graph.tags.reload() == {}
        graph.tags.set("s", "t", two[0].id)
        assert graph.tags.repositories == {"s": {"t": two[0].id}}


class TestDamage:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("", {}),
            ("{", {}),
            ("null", {}),
            ("[]", {}),
            (HEAD + '{"r":{"t":"ID","u":"ID"},"s":{"v":"ID","w":"I', {"r": ["t", "u"], "s": ["v"]}),
            (HEAD + '{"r":{"t":"ID"},"bad":["x"],"s":{"v":"ID"}}}', {"r": ["t"], "s": ["v"]}),
            (HEAD + '{"host:5000/x":{"t":"ID"},"y":{', {"host:5000/x": ["t"]}),
            ("\x00" * 40, {}),
            (HEAD + '{"r":null}}', {}),
            ('{"repositories":{"r":{"t":"ID"}},"other":1}', {"r": ["t"]}),
        ],
    )
    def test_what_can_be_read_is_used_and_the_rest_is_kept(self, graph, two, noted, text, left):
        raw = text.replace("ID", two[0].id).encode()
        graph.tags.path.write_bytes(raw)
        sound = text in ("null",) or '"r":null' in text or "other" in text
        assert {name: sorted(tags) for name, tags in graph.tags.repositories.items()} == left
        assert bool(noted.notes) != sound
        graph.tags.set("new", "t", two[1].id)
        assert graph.tags.lookup("new:t").id == two[1].id
        assert {name: sorted(tags) for name, tags in graph.tags.repositories.items()} == left | {"new": ["t"]}
        kept = graph.tags.path.with_name("repositories.damaged-1")
        assert kept.exists() != sound
        if not sound:
            assert kept.read_bytes() == raw
        json.loads(graph.tags.path.read_bytes())

    @pytest.mark.parametrize("plant", ["fifo", "directory", "link"])
    def test_damage_is_kept_whatever_has_its_name(self, graph, two, disk, plant):
        planted = graph.tags.path.with_name("repositories.damaged-1")
        if plant == "fifo":
            os.mkfifo(planted)
        elif plant == "directory":
            planted.mkdir()
        else:
            planted.symlink_to(disk / "nowhere")
        graph.tags.path.write_text("{")
        graph.tags.set("a", "t", two[0].id)
        kept = [path for path in graph.tags.path.parent.glob("repositories.damaged-*") if path.is_file()]
        assert [path.read_text() for path in kept] == ["{"]
        assert not (disk / "nowhere").exists()

    def test_every_damage_is_kept_and_the_same_one_once(self, graph, two):
        for raw in (b"one", b"two", b"one"):
            graph.tags.path.write_bytes(raw)
            graph.tags.set("r", "t", two[0].id)
        kept = sorted(path.name for path in graph.layout.home.glob("repositories.damaged*"))
        assert kept == ["repositories.damaged-1", "repositories.damaged-2"]

    def test_a_name_that_is_there_already_mends_the_file(self, graph, two):
        graph.tags.path.write_text(HEAD + f'{{"r":{{"t":"{two[0].id}"')
        graph.tags.set("r", "t", two[0].id)
        assert json.loads(graph.tags.path.read_bytes()) == {"Repositories": {"r": {"t": two[0].id}}}

    def test_names_that_cannot_be_given_today_are_found(self, graph, two):
        graph.tags.path.write_text(HEAD + f'{{"Weird name!":{{"a b":"{two[0].id}"}}}}}}')
        assert graph.tags.lookup("Weird name!:a b").id == two[0].id
        assert graph.tags.delete("Weird name!") == ["Weird name!:a b"]

    def test_a_store_without_a_file(self, graph, disk):
        assert TagStore(disk / "none", graph).repositories == {}
