"""Ids, and finding them by a part (docker's TestTruncIndex, and what it got wrong)."""

from __future__ import annotations

import pytest

from lamella import errors
from lamella.formats.docker_graph import TruncIndex, generate_id, short_id, validate_id

ID = "99b36c2c326ccc11e726eee6ee78a0baf166ef96"


def test_generated_ids():
    ids = {generate_id() for _ in range(200)}
    assert len(ids) == 200
    for id in ids:
        assert validate_id(id) == id
        assert not id[:12].isdigit()


def test_short_ids():
    assert short_id("a" * 64) == "a" * 12
    assert short_id("abc") == "abc"


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("", "Image id can't be empty"),
        ("a:b", "Invalid character in image id: ':'"),
        ("a b", "image ID 'a b' is invalid"),
        ("..", "image ID '..' is invalid"),
        ("../escape", "image ID '../escape' is invalid"),
        ("foo/bar", "image ID 'foo/bar' is invalid"),
        ("A" * 64, "is invalid"),
        ("a" * 63, "is invalid"),
        ("a" * 64 + "\n", "is invalid"),
        ("27cf784147099545", "is invalid"),
    ],
)
def test_what_cannot_name_an_image(id, text):
    with pytest.raises(errors.InvalidInput) as caught:
        validate_id(id)
    assert text in str(caught.value)


def test_ids_of_sixteen_digits_are_read():
    assert validate_id("27cf784147099545", legacy=True) == "27cf784147099545"


class TestTruncIndex:
    def test_the_vector_of_docker(self):
        index = TruncIndex([ID])
        with pytest.raises(errors.NotFound):
            index.get("abracadabra")
        for prefix in (ID, ID[:1], ID[: len(ID) // 2]):
            assert index.get(prefix) == ID
        with pytest.raises(errors.NotFound):
            index.get(ID[len(ID) // 2 :])
        second = ID[:6] + "blabla"
        index.add(second)
        assert index.get(ID) == ID
        assert index.get(second) == second
        for length in (6, 4, 1):
            with pytest.raises(errors.Ambiguous):
                index.get(ID[:length])
        assert index.get(ID[:7]) == ID
        assert index.get(second[:7]) == second
        with pytest.raises(errors.NotFound):
            index.delete("non-existing")
        index.delete(second)
        for name in (second, second[:7], second[:11]):
            with pytest.raises(errors.NotFound):
                index.get(name)
        for length in (6, 4, 1, 7, 15, len(ID)):
            assert index.get(ID[:length]) == ID

    @pytest.mark.parametrize(
        ("id", "error", "text"),
        [
            ("a b", errors.InvalidInput, "Illegal character: ' '"),
            (ID, errors.AlreadyExists, f"Id already exists: {ID}"),
            ("", errors.InvalidInput, "Prefix can't be empty"),
        ],
    )
    def test_what_cannot_be_added(self, id, error, text):
        index = TruncIndex([ID])
        with pytest.raises(error) as caught:
            index.add(id)
        assert text in str(caught.value)
        assert len(index) == 1

    def test_an_exact_id_that_is_also_a_prefix_of_another(self):
        index = TruncIndex(["ab12", "ab"])
        assert index.get("ab") == "ab"
        assert index.get("ab1") == "ab12"
        with pytest.raises(errors.Ambiguous, match="ab, ab12"):
            index.get("a")
        index.delete("ab")
        assert index.get("a") == "ab12"

    @pytest.mark.parametrize("ids", [[], ["a"], ["a", "b"]])
    def test_the_empty_prefix_is_an_error_and_no_crash(self, ids):
        with pytest.raises(errors.InvalidInput, match="Prefix can't be empty"):
            TruncIndex(ids).get("")
        with pytest.raises(errors.NotFound):
            TruncIndex(ids).delete("")

    def test_texts(self):
        index = TruncIndex(["aa", "ab"])
        with pytest.raises(errors.NotFound, match="No such id: c"):
            index.get("c")
        with pytest.raises(errors.Ambiguous, match="Multiple IDs found with provided prefix: a"):
            index.get("a")
        with pytest.raises(errors.NotFound, match="No such id: a"):
            index.delete("a")

    def test_prefixes_only_never_substrings(self):
        with pytest.raises(errors.NotFound):
            TruncIndex(["xabc"]).get("abc")

    def test_many_candidates_are_named_in_part(self):
        with pytest.raises(errors.Ambiguous, match=r"a0, a1, a2, a3, a4, \.\.\."):
            TruncIndex(f"a{number}" for number in range(9)).get("a")
