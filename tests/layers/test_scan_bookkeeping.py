"""What unions leave in a branch for themselves never shows as a file."""

from __future__ import annotations

from pathlib import Path

from lamella.layers.entry import Kind
from lamella.layers.scan import scan
from lamella.mounts.model import Form


def test_marks_of_fuse_overlayfs_in_a_new_directory_make_it_opaque_and_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in (".wh..wh..opq", ".wh..opq", "file"):
        (tmp_path / "new" / name).touch()
    index = scan(tmp_path, Form.OVERLAY_USER).index
    assert [entry.path for entry in index.entries] == [b"", b"new", b"new/file"]
    assert {(entry.path, entry.kind) for entry in index.markers} == {(b"new", Kind.OPAQUE)}
