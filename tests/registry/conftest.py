"""Registries as fixtures: each is a process of its own with an empty storage, and gone after the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import certificates, registries
from support.certificates import Certificate
from support.registries import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that is open to all, over plain HTTP."""
    with registries.docker_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def users_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that asks for a user and a password with every request."""
    with registries.docker_registry(tmp_path / "registry", auth="htpasswd") as running:
        yield running


@pytest.fixture
def token_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that sends its clients to a token server."""
    with registries.docker_registry(tmp_path / "registry", auth="token") as running:
        yield running


@pytest.fixture(scope="session")
def server_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for servers on this machine, of an authority that nobody else trusts."""
    return certificates.for_servers(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_registry(tmp_path: Path, server_certificate: Certificate) -> Iterator[Registry]:
    """A registry that speaks TLS only."""
    with registries.docker_registry(tmp_path / "registry", tls=server_certificate) as running:
        yield running
