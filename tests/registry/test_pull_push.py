"""Images between the store, other tools and docker-registry: what one wrote the other reads, digests equal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import lamella
from lamella.errors import AccessDenied, Authentication, InvalidInput, NotFound
from lamella.formats.oci_layout import OciLayoutSource
from lamella.formats.oci_layout_sink import OciLayoutSink
from lamella.registry.access import Access
from lamella.registry.credentials import Credentials
from lamella.registry.policy import Policy
from lamella.registry.refetch import RegistryRefetch
from lamella.registry.registries_conf import RegistriesConf
from lamella.registry.source import repository_for
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer
from lamella.spec.platform import Platform
from lamella.spec.reference import Reference
from lamella.testing import consistency
from lamella.transfer.copy import copy_images
from support import layouts, wire
from support.building import digest_of, file, tar
from support.needs import needs_root, needs_tool
from support.peers import Podman, run, skopeo_inspect
from support.registries import Registry
from support.scripted import Reply, scripted

pytestmark = needs_tool("docker-registry", "skopeo", "htpasswd", "openssl")

REAL = ["busybox/musl", "hello-world-10-platforms"]


def access(registry: Registry, **fields) -> Access:
    credentials = Credentials(registry.user, registry.password) if registry.user else None
    return Access(credentials=credentials, **fields)


def skopeo_push(registry: Registry, layout: Path, name: str, *options: str) -> str:
    """Push a layout with skopeo; the digest at the registry."""
    target = f"docker://{registry.host}/{name}"
    one = registry.storage.parent / "one"
    save_as_one(layout, one)
    run("skopeo", "copy", "-q", "--all", *options, *registry.skopeo_options("dest"), f"oci:{one}:it", target)
    return digest_of(skopeo_raw(registry, name))


def save_as_one(layout: Path, target: Path) -> None:
    """A copy of a layout in which an index that lies flat in its index.json is a document of its own."""
    copy_images(
        source := OciLayoutSource(layout), OciLayoutSink(target), offers=[Offer(source.offers()[0].descriptor, ("it",))]
    )


def skopeo_raw(registry: Registry, name: str) -> bytes:
    """The document that skopeo sees under a name."""
    command = ["skopeo", "inspect", "--raw", *registry.skopeo_options(), f"docker://{registry.host}/{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def pushed(registry: Registry, name: str, *layers: bytes, **config) -> wire.Image:
    """Push a small image by hand."""
    repository, _, tag = name.partition(":")
    return wire.Wire(registry.host).put_image(repository, tag, *layers, **config)


LAYER = tar(file("etc/os-release", b"ID=small\n"), file("data", wire.noise(200_000)))
SECOND = tar(file("etc/motd", b"hello\n"))


@pytest.mark.parametrize("kind", ["registry", "users_registry", "token_registry"])
@pytest.mark.parametrize("image", REAL)
def test_what_skopeo_pushed_is_pulled_and_pushed_and_read_back(kind, image, request, store, tmp_path):
    registry = request.getfixturevalue(kind)
    digest = skopeo_push(registry, layouts.real(image, tmp_path / "image"), "from/skopeo:1")
    name = f"{registry.host}/from/skopeo:1"
    used = access(registry)
    loaded = store.fetch(name, all_platforms=True, access=used)
    assert str(loaded.descriptor.digest) == digest
    assert loaded.names == (name,)
    sent = store.push(name, f"{registry.host}/from/lamella:2", access=used)
    assert str(sent.digest) == digest
    assert skopeo_raw(registry, "from/lamella:2") == skopeo_raw(registry, "from/skopeo:1")
    back = tmp_path / "back"
    source = f"docker://{registry.host}/from/lamella:2"
    run("skopeo", "copy", "-q", "--all", *registry.skopeo_options("src"), source, f"oci:{back}:it")
    config = store.image(name, platform=Platform.parse("linux/amd64")).id
    assert layouts.blob(back, str(config)).exists()


@needs_root
@needs_tool("podman")
def test_podman_and_lamella_read_what_the_other_pushed(registry, store, tmp_path):
    with Podman(tmp_path, "vfs") as podman:
        image = pushed(registry, "a/b:1", LAYER, SECOND)
        ours = store.pull(f"{registry.host}/a/b:1", access=access(registry))
        podman("pull", "-q", "--tls-verify=false", f"{registry.host}/a/b:1")
        assert podman("image", "inspect", "--format", "{{.Id}}", f"{registry.host}/a/b:1").strip() == ours.id.hex
        podman("push", "-q", "--tls-verify=false", f"{registry.host}/a/b:1", f"{registry.host}/p/b:1")
        theirs = store.pull(f"{registry.host}/p/b:1", access=access(registry))
        assert theirs.id == ours.id
        with store.prepare(ours, driver="copy") as snapshot:
            with snapshot.mount() as root:
                (root / "new").write_text("file\n")
            child = snapshot.commit(f"{registry.host}/c/b:1")
        store.push(f"{registry.host}/c/b:1", access=access(registry))
        podman("pull", "-q", "--tls-verify=false", f"{registry.host}/c/b:1")
        assert podman("image", "inspect", "--format", "{{.Id}}", f"{registry.host}/c/b:1").strip() == child.id.hex
    assert str(ours.digest) == image.digest


# -- pulling


def test_a_pulled_image_is_whole_and_its_second_pull_fetches_no_layer(registry, store):
    image = pushed(registry, "a/b:1", LAYER, SECOND)
    name = f"{registry.host}/a/b:1"
    pulled = store.pull(name, access=access(registry))
    assert pulled.open("/etc/os-release").read() == b"ID=small\n"
    assert (str(pulled.digest), pulled.names) == (image.digest, [name])
    before = registry.server.output.count("GET /v2/a/b/blobs/")
    assert store.pull(name, access=access(registry)).digest == pulled.digest
    assert registry.server.output.count("GET /v2/a/b/blobs/") == before


def test_the_image_for_a_platform_is_pulled_or_all_of_them(registry, store, tmp_path):
    skopeo_push(registry, layouts.real("hello-world-10-platforms", tmp_path / "image"), "h:1")
    name = f"{registry.host}/h:1"
    assert (
        str(store.pull(name, platform=Platform.parse("linux/s390x"), access=access(registry)).platform) == "linux/s390x"
    )
    assert len(store.images()) == 1
    image = store.pull(name, platform=Platform.parse("linux/riscv64"), all_platforms=True, access=access(registry))
    assert str(image.platform) == "linux/riscv64"
    assert len(store.images()) == 10
    with pytest.raises(NotFound) as caught:
        store.pull(name, platform=Platform.parse("linux/sparc64"), access=access(registry))
    assert caught.value.code == "platform-not-found"


def test_what_is_pulled_by_digest_is_kept_under_it(registry, store):
    image = pushed(registry, "a/b:1", LAYER)
    name = f"{registry.host}/a/b@{image.digest}"
    assert store.pull(name, access=access(registry)).names == [name]
    assert str(store.image(name).digest) == image.digest
    store.gc()
    assert str(store.image(name).digest) == image.digest
    both = store.pull(f"{registry.host}/a/b:1@{image.digest}", access=access(registry))
    assert both.names == [f"{registry.host}/a/b:1", name]
    store.remove([name])
    store.remove([f"{registry.host}/a/b:1"])
    assert store.images() == []


def test_what_is_not_there_is_told(registry, store):
    pushed(registry, "a/b:1", LAYER)
    for name in ("a/b:2", "nobody/nothing:1", f"a/b@{Digest.of(b'x')}"):
        with pytest.raises(NotFound) as caught:
            store.pull(f"{registry.host}/{name}", access=access(registry))
        assert caught.value.code in ("manifest-not-found", "repository-not-found")


def test_wrong_and_missing_credentials_are_told(users_registry, store):
    name = f"{users_registry.host}/a/b:1"
    for credentials, code in ((None, "credentials-missing"), (Credentials("ann", "no"), "credentials-refused")):
        with pytest.raises(Authentication) as caught:
            store.pull(name, access=Access(credentials=credentials))
        assert caught.value.code == code
        assert "lamella login" in caught.value.hint


def test_a_layer_that_is_missing_at_the_registry_leaves_nothing(registry, store):
    image = pushed(registry, "a/b:1", LAYER, SECOND)
    last = list(image.blobs)[-1].removeprefix("sha256:")
    for path in registry.storage.rglob(last):
        for found in path.rglob("data"):
            found.unlink()
    with pytest.raises(NotFound) as caught:
        store.pull(f"{registry.host}/a/b:1", access=access(registry))
    assert caught.value.code == "blob-not-found"
    assert store.images() == []
    assert list(store.content.walk()) == []


def test_a_layer_that_was_corrupted_is_refused_and_leaves_nothing(registry, store):
    image = pushed(registry, "a/b:1", LAYER)
    digest = list(image.blobs)[-1].removeprefix("sha256:")
    (path,) = registry.storage.glob(f"docker/registry/v2/blobs/sha256/*/{digest}/data")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(lamella.LamellaError) as caught:
        store.pull(f"{registry.host}/a/b:1", access=access(registry))
    assert caught.value.kind == "integrity"
    assert store.images() == []
    assert list(store.content.walk()) == []


def test_who_verifies_may_refuse_before_a_layer_is_fetched(registry, store):
    image = pushed(registry, "a/b:1", LAYER)
    seen = []

    def verify(candidate):
        seen.append((str(candidate.reference), str(candidate.descriptor.digest), candidate.document))
        assert list(candidate.referrers()) == []
        assert dict(candidate.signatures()) == {}
        return len(seen) > 1

    name = f"{registry.host}/a/b:1"
    with pytest.raises(AccessDenied) as caught:
        store.pull(name, access=access(registry), verify=verify)
    assert caught.value.code == "policy-rejected"
    assert "GET /v2/a/b/blobs/" not in registry.server.output
    store.pull(name, access=access(registry), verify=verify)
    assert seen[1] == (name, image.digest, image.raw)
    with pytest.raises(AccessDenied):
        store.pull(name, access=access(registry), verify=Policy.parse(b'{"default": [{"type": "reject"}]}'))


def test_mirrors_are_asked_first_and_the_registry_where_they_fail(registry, store):
    image = pushed(registry, "copy/a/b:1", LAYER)
    gone = "127.0.0.1:9"
    conf = RegistriesConf()._with(
        {
            "registry": [
                {
                    "location": "r.example",
                    "mirror": [{"location": gone}, {"location": f"{registry.host}/copy"}],
                },
            ],
            "aliases": {"app": "r.example/a/b"},
            "unqualified-search-registries": [gone, registry.host],
        },
        Path("r.conf"),
    )
    used = access(registry, registries=conf)
    pulled = store.pull("app:1", access=used)
    assert (str(pulled.digest), pulled.names) == (image.digest, ["r.example/a/b:1"])
    assert str(store.pull("copy/a/b:1", access=used).digest) == image.digest


def test_a_signed_schema_1_image_is_converted(registry, store, tmp_path):
    image = pushed(registry, "a/b:1", LAYER, SECOND, created="2020-01-02T03:04:05Z")
    layers = list(image.blobs)[1:]
    records = [
        {"id": "2" * 64, "parent": "1" * 64, "created": "2020-01-02T03:04:05Z", "os": "linux", "architecture": "amd64",
         "container_config": {"Cmd": ["/bin/sh", "-c", "echo <hello> & motd"]}, "config": {"Cmd": ["sh"]},
         "author": "me", "Size": 5, "comment": "second"},
        {"id": "3" * 64, "created": "2020-01-02T03:04:04Z", "throwaway": True, "container_config": {"Cmd": ["ENV x"]}},
        {"id": "1" * 64, "created": "2020-01-02T03:04:03Z", "container_config": {"Cmd": ["ADD"]}},
    ]  # fmt: skip
    manifest = {
        "schemaVersion": 1, "name": "a/b", "tag": "old", "architecture": "amd64",
        "fsLayers": [{"blobSum": blob} for blob in (layers[1], layers[0], layers[0])],
        "history": [{"v1Compatibility": json.dumps(record)} for record in records],
    }  # fmt: skip
    raw = json.dumps(manifest, indent=3).encode()
    wired = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}

    def answer(asked):
        if "/manifests/" in asked.path:
            return Reply(200, raw, {**wired, "Docker-Content-Digest": digest_of(raw)})
        data = image.blobs[asked.path.rpartition("/")[2]]
        return Reply(200, data)

    with scripted(answer) as server:
        pulled = store.pull(f"{server.host}/a/b:old", access=Access(plain_http=True))
    assert pulled.open("/etc/motd").read() == b"hello\n"
    assert pulled.history()[-1].created_by == "/bin/sh -c echo <hello> & motd"
    assert len(pulled.layers) == 2
    assert len(pulled.config.history) == 3
    assert pulled.config.config == {"Cmd": ["sh"]}
    assert b"\\u003chello\\u003e \\u0026 motd" in pulled.config.raw
    assert pulled.config.author == "me"


def test_a_signed_schema_1_image_gets_the_id_that_skopeo_gives_it(store, tmp_path):
    archive = layouts.real("alpine-docker-archive.tar", tmp_path)
    old, new = tmp_path / "old", tmp_path / "new"
    run("skopeo", "copy", "-q", "--format", "v2s1", f"docker-archive:{archive}", f"dir:{old}")
    run("skopeo", "copy", "-q", "--format", "v2s2", f"dir:{old}", f"dir:{new}")
    raw = (old / "manifest.json").read_bytes()
    assert "signatures" in json.loads(raw)
    wired = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    with scripted(
        lambda asked: (
            Reply(200, raw, wired)
            if "/manifests/" in asked.path
            else Reply(200, (old / asked.path.rpartition(":")[2]).read_bytes())
        )
    ) as server:
        pulled = store.pull(f"{server.host}/a/b:1", access=Access(plain_http=True))
    assert str(pulled.id) == json.loads((new / "manifest.json").read_bytes())["config"]["digest"]


# -- pushing


def test_only_what_the_registry_lacks_is_sent_and_neighbours_lend_the_rest(registry, store):
    pushed(registry, "a/b:1", LAYER)
    name, used = f"{registry.host}/a/b:1", access(registry)
    store.pull(name, access=used)
    uploads = registry.server.output.count("PATCH") + registry.server.output.count('"PUT /v2/a/b/blobs')
    store.push(name, access=used)
    assert registry.server.output.count("PATCH") + registry.server.output.count('"PUT /v2/a/b/blobs') == uploads
    store.push(name, f"{registry.host}/c/d:1", access=used)
    mounts = [line for line in registry.server.output.splitlines() if '"POST /v2/c/d/blobs/uploads/?mount=' in line]
    assert len(mounts) == 1, mounts
    assert '" 201 ' in mounts[0]
    assert skopeo_raw(registry, "c/d:1") == skopeo_raw(registry, "a/b:1")


def test_a_large_layer_is_pushed_as_a_stream(registry, store):
    data = tar(file("big", wire.noise(5 << 20)))
    store.import_rootfs(_reader(data), f"{registry.host}/big/one:1")
    sent = store.push(f"{registry.host}/big/one:1", access=access(registry))
    assert skopeo_inspect(f"docker://{registry.host}/big/one:1", "--tls-verify=false")["Digest"] == str(sent.digest)
    assert registry.server.output.count('"PATCH ') == 1


def _reader(data: bytes):
    import io

    return io.BytesIO(data)


def test_a_platform_of_an_index_is_pushed_alone(registry, store, tmp_path):
    skopeo_push(registry, layouts.real("hello-world-10-platforms", tmp_path / "image"), "h:1")
    name, used = f"{registry.host}/h:1", access(registry)
    store.fetch(name, all_platforms=True, access=used)
    sent = store.push(name, f"{registry.host}/one:1", platform=Platform.parse("linux/s390x"), access=used)
    assert str(sent.digest) == digest_of(skopeo_raw(registry, "one:1"))
    assert "manifests" not in json.loads(skopeo_raw(registry, "one:1"))


def test_an_index_of_which_some_is_missing_is_not_pushed(registry, store, tmp_path):
    skopeo_push(registry, layouts.real("hello-world-10-platforms", tmp_path / "image"), "h:1")
    name, used = f"{registry.host}/h:1", access(registry)
    index = store.fetch(name, all_platforms=True, access=used).descriptor
    store.remove([name])
    store.pull(name, platform=Platform.parse("linux/s390x"), access=used)
    with pytest.raises(NotFound):
        store.push(str(index.digest), f"{registry.host}/part:1", access=used)


def test_pushing_under_another_digest_is_refused(registry, store):
    pushed(registry, "a/b:1", LAYER)
    store.pull(f"{registry.host}/a/b:1", access=access(registry))
    with pytest.raises(InvalidInput) as caught:
        store.push(f"{registry.host}/a/b:1", f"{registry.host}/a/b@{Digest.of(b'x')}", access=access(registry))
    assert caught.value.code == "push-digest"


def test_an_id_is_no_name_to_push_to(registry, store):
    pushed(registry, "a/b:1", LAYER)
    image = store.pull(f"{registry.host}/a/b:1", access=access(registry))
    for name in (str(image.id), image.short_id):
        with pytest.raises(InvalidInput) as caught:
            store.push(name, access=access(registry))
        assert caught.value.code == "push-target"
    store.push(image.short_id, f"{registry.host}/by/id:1", access=access(registry))
    with pytest.raises(NotFound):
        store.push("not/there:1", access=access(registry))


def test_what_refers_to_an_image_is_listed_where_the_registry_lists_nothing(registry, store):
    image = pushed(registry, "a/b:1", LAYER)
    by_hand = wire.Wire(registry.host)
    by_hand.put_blob("src/art", wire.EMPTY)
    artifact = {
        "schemaVersion": 2,
        "mediaType": wire.MANIFEST,
        "artifactType": "application/x.test",
        "config": wire.descriptor("application/vnd.oci.empty.v1+json", wire.EMPTY),
        "layers": [wire.descriptor("application/vnd.oci.empty.v1+json", wire.EMPTY)],
        "subject": image.descriptor,
        "annotations": {"who": "me"},
    }
    assert by_hand.put_manifest("src/art", "sig", artifact).status == 201
    used = access(registry)
    store.fetch(f"{registry.host}/src/art:sig", access=used)
    for _ in range(2):
        store.push(f"{registry.host}/src/art:sig", f"{registry.host}/a/b:sig", access=used)
    repository = repository_for(Reference.parse(f"{registry.host}/a/b"), used)
    try:
        (listed,) = repository.referrers(Digest.parse(image.digest))
        assert (listed.artifact_type, listed.annotations) == ("application/x.test", {"who": "me"})
        assert repository.referrers(Digest.parse(image.digest), "application/other") == []
        assert sorted(repository.tags()) == ["1", "sha256-" + image.digest[7:], "sig"]
    finally:
        repository.registry.close()


def test_pages_of_tags_are_followed_and_lead_nowhere_else():
    pages = [
        Reply(200, b'{"tags": ["a", "b"]}', {"Link": '</v2/x/y/tags/list?n=2&last=b>; rel="next"'}),
        Reply(200, b'{"tags": null}', {"Link": "<list?n=2&last=c>; rel=next"}),
        Reply(200, b'{"tags": ["d"]}'),
    ]
    with scripted(lambda asked: pages.pop(0)) as server:
        repository = repository_for(Reference.parse(f"{server.host}/x/y"), Access(plain_http=True))
        assert list(repository.tags()) == ["a", "b", "d"]
        assert [asked.path for asked in server.asked[1:]] == [
            "/v2/x/y/tags/list?n=2&last=b",
            "/v2/x/y/tags/list?n=2&last=c",
        ]
        for link in ("<http://127.0.0.2:1/x>; rel=next", "</v2/x/y/tags/list?n=1000>; rel=next"):
            with scripted(lambda asked, link=link: Reply(200, b'{"tags": []}', {"Link": link})) as stray:
                repository = repository_for(Reference.parse(f"{stray.host}/x/y"), Access(plain_http=True))
                with pytest.raises(lamella.LamellaError) as caught:
                    list(repository.tags())
                assert caught.value.code == "registry-protocol"


def test_blobs_are_had_again_from_where_they_came(registry):
    image = pushed(registry, "a/b:1", LAYER)
    digest = Digest.parse(list(image.blobs)[-1])
    size = len(image.blobs[str(digest)])
    refetch = RegistryRefetch(access(registry))
    assert refetch.has(f"{registry.host}/a/b", digest, size)
    assert not refetch.has(f"{registry.host}/a/b", Digest.of(b"x"), size)
    reader = refetch.open(f"{registry.host}/a/b", digest, size)
    assert b"".join(iter(lambda: reader.read(1 << 16), b"")) == image.blobs[str(digest)]
    reader.close()


# -- copying


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_images_go_from_a_registry_to_a_file_and_back(kind, registry, store, tmp_path):
    image = pushed(registry, "a/b:1", LAYER, SECOND)
    used = access(registry)
    path = tmp_path / "there"
    store.copy(f"docker://{registry.host}/a/b:1", f"{kind}:{path}:some/name:tag", access=used)
    store.copy(f"{kind}:{path}", f"docker://{registry.host}/back:1", access=used)
    inspected = skopeo_inspect(f"docker://{registry.host}/back:1", "--tls-verify=false", "--config")
    assert inspected["rootfs"] == json.loads(next(iter(image.blobs.values())))["rootfs"]
    if kind != "docker-archive":
        assert digest_of(skopeo_raw(registry, "back:1")) == image.digest
    store.copy(f"{kind}:{path}", "kept:1", access=used)
    assert store.image("kept:1").open("/etc/motd").read() == b"hello\n"
    with pytest.raises(NotFound):
        store.copy(f"{kind}:{path}:other", "kept:2", access=used)


def test_an_image_goes_from_registry_to_registry_and_inside_one(registry, users_registry, store, tmp_path):
    digest = skopeo_push(registry, layouts.real("hello-world-10-platforms", tmp_path / "image"), "h:1")
    used = access(registry)
    for target in (users_registry, registry):
        place = f"docker://{target.host}/other/h:2"
        (arrived,) = store.copy(f"docker://{registry.host}/h:1", place, access=used, target_access=access(target))
        assert str(arrived.descriptor.digest) == digest
        assert digest_of(skopeo_raw(target, "other/h:2")) == digest
    assert store.images() == []
    assert '"GET /v2/h/blobs/' in registry.server.output
    assert '"PUT /v2/other/h/blobs' not in registry.server.output


def test_a_store_is_whole_after_many_pulls(registry, store, tmp_path):
    pushed(registry, "a/b:1", LAYER)
    pushed(registry, "a/b:2", LAYER, SECOND)
    for tag in ("1", "2", "1"):
        store.pull(f"{registry.host}/a/b:{tag}", access=access(registry))
    assert consistency.problems(store) == []
