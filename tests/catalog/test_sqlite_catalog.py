from __future__ import annotations

import pytest

from lamella.catalog.sqlite import SqliteCatalog
from lamella.testing.catalog import CatalogSuite


class TestSqliteCatalog(CatalogSuite):
    @pytest.fixture
    def catalog(self, tmp_path):
        with SqliteCatalog(tmp_path / "catalog.db") as catalog:
            yield catalog
