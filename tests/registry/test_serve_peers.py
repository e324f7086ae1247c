"""skopeo, podman and Lamella: what one pushes to ``lamella serve`` the others pull from it, digests equal."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import lamella
from lamella.registry.access import Access
from lamella.registry.credentials import Credentials
from lamella.testing import consistency
from support import building, layouts, registries, serving
from support.needs import needs_root, needs_tool
from support.peers import Podman, run, skopeo_inspect
from support.serving import Served

pytestmark = needs_tool("skopeo")

LAYERS = (
    building.tar(building.directory("etc"), building.file("etc/motd", "hello\n"), building.symlink("etc/link", "motd")),
    building.tar(building.gone("etc/link"), building.file("etc/more", "more\n")),
)


@pytest.fixture(scope="module")
def running(real_disk):
    root = real_disk / "serve-peers"
    with serving.served(root, "--writable") as served:
        yield served
    with lamella.Store.open(root) as store:
        store.gc()
        assert consistency.problems(store) == []


def raw_digest(reference: str) -> str:
    """The digest of the manifest that skopeo finds."""
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", reference)
    return f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"


def manifest_of(layout: Path) -> str:
    """The digest of the one manifest of a layout."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return str(entry["digest"])


def real_layouts() -> list[str]:
    return [name for name in layouts.names() if not name.startswith("semantics/")]


@pytest.mark.parametrize("name", real_layouts() or ["alpine-3.20"])
def test_skopeo_pushes_and_pulls_real_images(running, tmp_path, name):
    found = layouts.found_in(layouts.real(name, tmp_path / "restored"))
    source = layouts.as_oci(found[0], tmp_path / "source")
    repository = name.lower().replace(".", "-")
    target = f"docker://{running.host}/{repository}:it"
    run("skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{source}:it", target)
    assert raw_digest(target) == manifest_of(source)
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", target, f"oci:{tmp_path / 'back'}:it")
    assert manifest_of(tmp_path / "back") == manifest_of(source)
    with lamella.Store.open(running.root) as store:
        image = store.image(f"{repository}:it")
        assert str(image.digest) == manifest_of(source)
        assert len(list(image.walk())) > 0
        with store.prepare(image, driver="copy") as snapshot, snapshot.mount() as root:
            assert list(root.iterdir())


def test_skopeo_pushes_an_index_with_all_its_platforms(running, tmp_path):
    for platform in ("amd64", "arm64", "s390x"):
        building.layout(
            tmp_path / "multi", [building.tar(building.file("arch", platform))],
            platform={"os": "linux", "architecture": platform}, tag=None,
        )  # fmt: skip
    index = json.loads((tmp_path / "multi/index.json").read_text())
    raw = json.dumps({**index, "mediaType": f"{building.OCI}index.v1+json"}).encode()
    descriptor = building.put(tmp_path / "multi", f"{building.OCI}index.v1+json", raw)
    (tmp_path / "multi/index.json").unlink()
    building.add_to_index(tmp_path / "multi", [descriptor], tag="it")
    target = f"docker://{running.host}/multi:it"
    run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path / 'multi'}:it", target)
    assert raw_digest(target) == descriptor["digest"]
    run("skopeo", "copy", "--all", "--src-tls-verify=false", target, f"oci:{tmp_path / 'back'}:it")
    assert manifest_of(tmp_path / "back") == descriptor["digest"]
    with lamella.Store.open(running.root) as store:
        names = [record.name for record in store.catalog.names() if "multi" in record.name]
        assert names == ["docker.io/library/multi:it"], "the images are kept by the index, not by names of their own"
        assert store.image("multi:it").open("/arch").read() == os.fsencode(_machine())


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def test_skopeo_lists_tags_and_deletes(running, tmp_path):
    building.layout(tmp_path / "l", LAYERS)
    for tag in ("a", "b"):
        target = f"docker://{running.host}/listed:{tag}"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path / 'l'}:it", target)
    listed = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{running.host}/listed"))
    assert listed["Tags"] == ["a", "b"]
    run("skopeo", "delete", "--tls-verify=false", f"docker://{running.host}/listed:a")
    with lamella.Store.open(running.root) as store:
        assert not store.exists("listed:a")


def test_skopeo_reads_what_lamella_committed(running, tmp_path):
    with lamella.Store.open(running.root) as store:
        building.layout(tmp_path / "l", LAYERS)
        store.load(tmp_path / "l", name="base:1")
        with store.prepare("base:1", driver="copy") as snapshot:
            with snapshot.mount() as root:
                (root / "etc/new").write_text("new\n")
            image = snapshot.commit("child:1")
        inspected = skopeo_inspect(f"docker://{running.host}/child:1", "--tls-verify=false")
        assert inspected["Digest"] == str(image.digest)
        assert len(inspected["Layers"]) == 3
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{running.host}/child:1", f"oci:{tmp_path / 'o'}:it")
        assert manifest_of(tmp_path / "o") == str(image.digest)


def test_docker_media_types_come_back_as_they_were(running, tmp_path):
    building.layout(tmp_path / "l", LAYERS)
    target = f"docker://{running.host}/docker/types:1"
    run("skopeo", "copy", "--format", "v2s2", "--dest-tls-verify=false", f"oci:{tmp_path / 'l'}:it", target)
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", target))
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    with lamella.Store.open(running.root) as store:
        assert store.image("docker/types:1").open("/etc/more").read() == b"more\n"


def test_lamella_pulls_and_pushes_itself(running, tmp_path):
    building.layout(tmp_path / "l", LAYERS)
    plain = Access(plain_http=True)
    with lamella.Store.open(tmp_path / "one") as one, lamella.Store.open(tmp_path / "two") as two:
        (loaded,) = one.load(tmp_path / "l", name="app:1")
        one.push("app:1", f"{running.host}/from/lamella:1", access=plain)
        image = two.pull(f"{running.host}/from/lamella:1", access=plain)
        assert image.digest == loaded.descriptor.digest
        assert image.open("/etc/motd").read() == b"hello\n"
        assert consistency.problems(two) == []


@pytest.fixture(scope="module")
def guarded(real_disk, tmp_path_factory, server_certificate) -> Served:
    users = registries.htpasswd(tmp_path_factory.mktemp("users"), (registries.USER, registries.PASSWORD))
    options = ("--htpasswd", users, "--tls-cert", server_certificate.certificate, "--tls-key", server_certificate.key)
    with serving.served(real_disk / "serve-guarded", "--writable", *options) as served:
        yield served


@needs_tool("htpasswd", "openssl")
def test_users_push_and_pull_over_tls(guarded, server_certificate, tmp_path):
    building.layout(tmp_path / "l", LAYERS)
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").write_bytes(server_certificate.authority.read_bytes())
    target = f"docker://{guarded.host}/app:1"
    creds = f"{registries.USER}:{registries.PASSWORD}"
    copy = ("skopeo", "copy", "--dest-cert-dir", tmp_path / "certs")
    run(*copy, "--dest-creds", creds, f"oci:{tmp_path / 'l'}:it", target)
    with pytest.raises(AssertionError, match=r"authentication required|unauthorized"):
        run(*copy, "--dest-creds", "ann:wrong", f"oci:{tmp_path / 'l'}:it", target)
    authorities = tmp_path / "certs.d" / guarded.host
    authorities.mkdir(parents=True)
    (authorities / "ca.crt").write_bytes(server_certificate.authority.read_bytes())
    access = Access(
        credentials=Credentials(registries.USER, registries.PASSWORD), certificates=(tmp_path / "certs.d",),
        tls_verify=True,
    )  # fmt: skip
    with lamella.Store.open(tmp_path / "store") as store:
        image = store.pull(f"{guarded.host}/app:1", access=access)
        assert str(image.digest) == manifest_of(tmp_path / "l")


@needs_root
@needs_tool("podman")
def test_podman_pushes_and_pulls(running, tmp_path, disk):
    building.layout(tmp_path / "l", LAYERS)
    target = f"{running.host}/podman/app"
    with Podman(disk, "vfs") as podman:
        podman("pull", "-q", f"oci:{tmp_path / 'l'}:it")
        (image,) = json.loads(podman("images", "--format", "json"))
        podman("push", "-q", "--tls-verify=false", image["Id"], f"{target}:1")
        podman("rmi", image["Id"])
        podman("pull", "-q", "--tls-verify=false", f"{target}:1")
        (pulled,) = json.loads(podman("images", "--format", "json"))
        assert pulled["Id"] == image["Id"]
        with lamella.Store.open(running.root) as store:
            found = store.image("podman/app:1")
            assert found.id.hex == image["Id"]
            assert str(found.digest) == pulled["Digest"]
            assert found.open("/etc/more").read() == b"more\n"
