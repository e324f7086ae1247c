from __future__ import annotations

import pytest

from lamella.content.local import LocalContent


@pytest.fixture
def content(tmp_path):
    """An empty store in a directory."""
    return LocalContent(tmp_path)
