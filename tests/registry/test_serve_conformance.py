"""The workflows of distribution-spec 1.1 (pull, push, content discovery, content management) on ``lamella serve``.

Every behaviour that the specification's conformance tests look for is looked for here, on a real process, by a client
that does nothing but send requests. The server's store has to be whole after each of them.
"""

from __future__ import annotations

import json
import re

import pytest

import lamella
from lamella.testing import consistency
from support import building, serving, wire
from support.wire import ABSENT, CONFIG, EMPTY, INDEX, MANIFEST, Wire

OCTETS = {"Content-Type": "application/octet-stream"}
LAYER_TAR = building.tar(building.directory("etc"), building.file("etc/motd", "hello\n"))


@pytest.fixture(scope="module")
def running(real_disk):
    root = real_disk / "serve-conformance"
    with serving.served(root, "--writable") as served:
        yield served
    with lamella.Store.open(root) as store:
        assert consistency.problems(store) == []
        store.holdings.publish()


@pytest.fixture
def registry(running) -> Wire:
    return running.wire


@pytest.fixture
def repository(request) -> str:
    """A repository that no other test uses."""
    return "tests/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture
def image(registry, repository) -> wire.Image:
    """An image under the tag ``it``."""
    return registry.put_image(repository, "it", LAYER_TAR, author=repository)


def config_of(image: wire.Image) -> tuple[str, bytes]:
    return next(iter(image.blobs.items()))


# -- the base


def test_the_base_says_that_this_is_a_registry(registry):
    for path in ("/v2/", "/v2"):
        answer = registry.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


def test_what_is_no_path_of_a_registry_is_not_found(registry):
    for path in ("/", "/v1/", "/v2/a", "/v3/", "/v2/a/b/c", "/v2/a/tags", "/v2/a/manifests"):
        answer = registry.ask("GET", path)
        assert (answer.status, answer.code) == (404, "NAME_UNKNOWN"), path


def test_a_method_that_is_not_there_is_refused(registry):
    for method, path in (("POST", "/v2/a/manifests/b"), ("PUT", "/v2/"), ("PATCH", f"/v2/a/blobs/{ABSENT}")):
        answer = registry.ask(method, path)
        assert (answer.status, answer.code) == (405, "UNSUPPORTED"), path


# -- pull


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_blob_that_is_not_there_is_404(registry, repository, method):
    answer = registry.ask(method, f"/v2/{repository}/blobs/{ABSENT}")
    assert answer.status == 404
    assert method == "HEAD" or answer.code == "BLOB_UNKNOWN"


def test_head_of_a_blob_tells_its_length_and_digest(registry, repository, image):
    digest, data = config_of(image)
    answer = registry.ask("HEAD", f"/v2/{repository}/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(data)
    assert answer.headers["docker-content-digest"] == digest


def test_get_of_a_blob_gives_its_bytes(registry, repository, image):
    for digest, data in image.blobs.items():
        answer = registry.ask("GET", f"/v2/{repository}/blobs/{digest}")
        assert (answer.status, answer.body) == (200, data)
        assert answer.headers["docker-content-digest"] == digest
        assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", [".INVALID_MANIFEST_NAME", "absent", ABSENT, "sha256:totallywrong"])
def test_a_manifest_that_is_not_there_is_404(registry, repository, method, reference):
    answer = registry.ask(method, f"/v2/{repository}/manifests/{reference}")
    assert answer.status == 404
    assert method == "HEAD" or answer.code == "MANIFEST_UNKNOWN"


def test_a_manifest_comes_by_tag_and_by_digest_as_it_was_sent(registry, repository, image):
    for reference in ("it", image.digest):
        for method, body in (("GET", image.raw), ("HEAD", b"")):
            answer = registry.ask(method, f"/v2/{repository}/manifests/{reference}", headers={"Accept": MANIFEST})
            assert (answer.status, answer.body) == (200, body)
            assert int(answer.headers["content-length"]) == len(image.raw)
            assert answer.headers["content-type"] == MANIFEST
            assert answer.headers["docker-content-digest"] == image.digest


def test_an_error_is_told_in_the_form_that_the_specification_has(registry, repository):
    answer = registry.put_manifest(repository, "sha256:totallywrong", b"blablabla")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    answer = registry.put_manifest(repository, "it", b"blablabla")
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=990-", 990, 1000), ("bytes=-7", 993, 1000),
     ("bytes=0-99999", 0, 1000), ("bytes=-99999", 0, 1000)],
)  # fmt: skip
def test_a_range_of_a_blob(registry, repository, asked, start, end):
    data = wire.noise(1000)
    digest = registry.put_blob(repository, data)
    answer = registry.ask("GET", f"/v2/{repository}/blobs/{digest}", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, data[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000"


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-2000", "bytes=-0"])
def test_a_range_behind_the_end_is_416(registry, repository, asked):
    digest = registry.put_blob(repository, wire.noise(1000))
    answer = registry.ask("GET", f"/v2/{repository}/blobs/{digest}", headers={"Range": asked})
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */1000"


@pytest.mark.parametrize("asked", ["bytes=", "bytes=b-a", "bytes=5-1", "lines=1-2", "bytes=0-1,5-6", "bytes=0x1-2"])
def test_a_range_that_is_none_is_passed_over(registry, repository, asked):
    data = wire.noise(1000)
    digest = registry.put_blob(repository, data)
    answer = registry.ask("GET", f"/v2/{repository}/blobs/{digest}", headers={"Range": asked})
    assert (answer.status, answer.body) == (200, data)


def test_a_range_of_something_else_gives_all_of_it(registry, repository):
    data = wire.noise(1000)
    digest = registry.put_blob(repository, data)
    path = f"/v2/{repository}/blobs/{digest}"
    assert registry.ask("GET", path, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status == 200
    assert registry.ask("GET", path, headers={"Range": "bytes=0-1", "If-Range": f'"{digest}"'}).status == 206


# -- push: blobs


def test_a_streamed_upload(registry, repository):
    data = wire.noise(3_000_000)
    where = registry.begin(repository)
    answer = registry.ask("PATCH", where, (data[at : at + 70_000] for at in range(0, len(data), 70_000)), OCTETS)
    assert answer.status == 202
    assert answer.headers["range"] == f"0-{len(data) - 1}"
    digest = building.digest_of(data)
    answer = registry.ask("PUT", wire.with_query(answer.location, digest=digest), headers={"Content-Length": "0"})
    assert answer.status == 201
    assert registry.ask("GET", answer.location).body == data


def test_a_whole_blob_in_one_post(registry, repository):
    data = wire.noise(1000, 2)
    path = f"/v2/{repository}/blobs/uploads/?digest={building.digest_of(data)}"
    answer = registry.ask("POST", path, data, OCTETS)
    assert answer.status == 201
    assert answer.headers["docker-content-digest"] == building.digest_of(data)
    assert registry.ask("GET", answer.location).body == data


def test_a_whole_blob_in_post_and_put(registry, repository):
    data = wire.noise(1000, 3)
    digest = registry.put_blob(repository, data)
    assert registry.ask("GET", f"/v2/{repository}/blobs/{digest}").body == data
    assert registry.put_blob(repository, data) == digest, "a second time is fine"


def test_an_empty_blob(registry, repository):
    digest = registry.put_blob(repository, b"")
    answer = registry.ask("GET", f"/v2/{repository}/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")


def test_a_blob_by_sha512(registry, repository):
    import hashlib

    data = wire.noise(1000, 4)
    digest = f"sha512:{hashlib.sha512(data).hexdigest()}"
    assert registry.ask("PUT", wire.with_query(registry.begin(repository), digest=digest), data).status == 201
    assert registry.ask("GET", f"/v2/{repository}/blobs/{digest}").body == data


def chunk(registry: Wire, where: str, data: bytes, start: int, method: str = "PATCH") -> wire.Answer:
    headers = {**OCTETS, "Content-Range": f"{start}-{start + len(data) - 1}"}
    return registry.ask(method, where, data, headers)


def test_chunks_in_order_and_only_so(registry, repository):
    data = wire.noise(3000, 5)
    where = registry.begin(repository)
    assert chunk(registry, where, data[1000:2000], 1000).status == 416
    answer = chunk(registry, where, data[:1000], 0)
    assert (answer.status, answer.headers["range"]) == (202, "0-999")
    answer = chunk(registry, answer.location, data[:1000], 0)
    assert answer.status == 416, "the same chunk again"
    assert answer.headers["range"] == "0-999"
    status = registry.ask("GET", answer.location)
    assert (status.status, status.headers["range"]) == (204, "0-999")
    answer = chunk(registry, status.location, data[1000:2000], 1000)
    assert (answer.status, answer.headers["range"]) == (202, "0-1999")
    last = wire.with_query(answer.location, digest=building.digest_of(data))
    assert chunk(registry, last, data[2000:], 2000, "PUT").status == 201
    assert registry.ask("GET", f"/v2/{repository}/blobs/{building.digest_of(data)}").body == data


def test_a_last_chunk_out_of_order_leaves_the_upload_as_it_is(registry, repository):
    data = wire.noise(2000, 6)
    answer = chunk(registry, registry.begin(repository), data[:1000], 0)
    last = wire.with_query(answer.location, digest=building.digest_of(data))
    assert chunk(registry, last, data[1000:], 999, "PUT").status == 416
    assert chunk(registry, last, data[1000:], 1000, "PUT").status == 201


@pytest.mark.parametrize("text", ["x-y", "5", "10-5", "-5", "0-"])
def test_a_chunk_with_a_range_that_is_none(registry, repository, text):
    answer = registry.ask("PATCH", registry.begin(repository), b"abc", {"Content-Range": text})
    assert (answer.status, answer.code) == (400, "BLOB_UPLOAD_INVALID")


def test_a_chunk_that_is_not_as_long_as_it_says(registry, repository):
    where = registry.begin(repository)
    answer = registry.ask("PATCH", where, b"abc", {"Content-Range": "0-9"})
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    assert registry.ask("PATCH", where, iter([b"x" * 20]), {"Content-Range": "0-9"}).code == "SIZE_INVALID"
    assert registry.ask("GET", where).status == 404, "what came is not what was announced: none of it is kept"


def test_wrong_digests_are_refused_and_leave_nothing(registry, repository):
    for digest in (ABSENT, "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", ""):
        where = registry.begin(repository)
        answer = registry.ask("PUT", wire.with_query(where, digest=digest), b"abc")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert registry.ask("PUT", registry.begin(repository), b"abc").code == "DIGEST_INVALID"
    answer = registry.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={ABSENT}", b"abc")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert registry.ask("HEAD", f"/v2/{repository}/blobs/{ABSENT}").status == 404


def test_an_upload_that_is_cancelled_is_gone(registry, repository):
    where = registry.begin(repository)
    registry.ask("PATCH", where, b"abc")
    assert registry.ask("DELETE", where).status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = registry.ask(method, wire.with_query(where, digest=ABSENT), b"")
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_belongs_to_its_repository(registry, repository):
    where = registry.begin(repository)
    other = where.replace(repository, "tests/other")
    assert registry.ask("GET", other).status == 404
    assert registry.ask("GET", where).status == 204


def test_a_blob_is_mounted_from_another_repository(registry, repository, image):
    digest, data = config_of(image)
    answer = registry.ask("POST", f"/v2/tests/mounted/blobs/uploads/?mount={digest}&from={repository}")
    assert answer.status == 201
    assert answer.location == f"/v2/tests/mounted/blobs/{digest}"
    assert registry.ask("GET", answer.location).body == data


def test_a_mount_without_a_source_finds_the_blob_too(registry, repository, image):
    digest, _ = config_of(image)
    assert registry.ask("POST", f"/v2/tests/mounted/blobs/uploads/?mount={digest}").status == 201


def test_a_mount_of_what_is_not_there_begins_an_upload(registry, repository):
    answer = registry.ask("POST", f"/v2/{repository}/blobs/uploads/?mount={ABSENT}&from=tests/nowhere")
    assert answer.status == 202
    digest = building.digest_of(b"mounted")
    assert registry.ask("PUT", wire.with_query(answer.location, digest=digest), b"mounted").status == 201


# -- push: manifests


def test_a_manifest_gets_any_number_of_tags(registry, repository, image):
    for number in range(4):
        answer = registry.put_manifest(repository, f"test{number}", image.raw)
        assert answer.status == 201
        assert answer.headers["docker-content-digest"] == image.digest
        assert registry.ask("GET", answer.location).body == image.raw
    tags = registry.ask("GET", f"/v2/{repository}/tags/list").json["tags"]
    assert tags == ["it", "test0", "test1", "test2", "test3"]


def test_a_manifest_without_layers(registry, repository):
    image = registry.put_image(repository, "empty")
    assert registry.ask("GET", f"/v2/{repository}/manifests/{image.digest}").body == image.raw


def test_a_manifest_by_its_digest_alone(registry, repository):
    image = registry.put_image(repository, "", LAYER_TAR)
    assert registry.ask("GET", f"/v2/{repository}/manifests/{image.digest}").body == image.raw
    assert registry.ask("GET", f"/v2/{repository}/tags/list").json["tags"] == []


def test_a_manifest_under_the_digest_of_another(registry, repository, image):
    answer = registry.put_manifest(repository, ABSENT, image.raw)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_a_manifest_whose_blobs_are_missing(registry, repository):
    image = wire.image_of(LAYER_TAR, author="nobody has sent this")
    answer = registry.put_manifest(repository, "it", image.raw)
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert registry.ask("GET", f"/v2/{repository}/manifests/it").status == 404


def test_a_manifest_that_is_wrong_about_the_size_of_a_blob(registry, repository, image):
    document = json.loads(image.raw)
    document["layers"][0]["size"] += 1
    answer = registry.put_manifest(repository, "wrong", document)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


def test_what_looks_like_an_image_and_is_none_is_kept_with_a_warning(registry, repository):
    """The conformance tests' own images are such: a layer that the config does not name."""
    data = building.tar(building.file("a", "b"))
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    for blob in (data, config):
        registry.put_blob(repository, blob)
    layer = wire.descriptor("application/vnd.oci.image.layer.v1.tar", data)
    document = {"schemaVersion": 2, "config": wire.descriptor(CONFIG, config), "layers": [layer]}
    answer = registry.put_manifest(repository, "it", document)
    assert answer.status == 201
    assert answer.headers["warning"].startswith('299 - "kept, but not as an image')
    assert registry.ask("GET", f"/v2/{repository}/manifests/it").json == document


def test_an_index_and_its_images(registry, repository):
    images = [registry.put_image(repository, "", LAYER_TAR, architecture=name) for name in ("amd64", "arm64")]
    listed = [
        {**image.descriptor, "platform": {"os": "linux", "architecture": name}}
        for image, name in zip(images, ("amd64", "arm64"), strict=True)
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    assert registry.put_manifest(repository, "multi", index, INDEX).status == 201
    answer = registry.ask("GET", f"/v2/{repository}/manifests/multi")
    assert (answer.json, answer.headers["content-type"]) == (index, INDEX)
    for image in images:
        assert registry.ask("GET", f"/v2/{repository}/manifests/{image.digest}").body == image.raw


def test_an_index_of_nothing_that_is_here(registry, repository):
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [wire.image_of().descriptor | {"digest": ABSENT}]}
    answer = registry.put_manifest(repository, "multi", index, INDEX)
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_a_tag_moves(registry, repository, image):
    other = registry.put_image(repository, "it", LAYER_TAR, author="another")
    assert registry.ask("GET", f"/v2/{repository}/manifests/it").body == other.raw


# -- content discovery


@pytest.fixture
def tagged(registry, repository, image) -> list[str]:
    tags = ["V2", "a", "b", "it", "v1", "v10", "v2"]
    for tag in tags:
        registry.put_manifest(repository, tag, image.raw)
    return tags


def test_tags_are_listed_in_order(registry, repository, tagged):
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    assert answer.json == {"name": repository, "tags": tagged}
    assert "link" not in answer.headers


def test_tags_come_in_pages(registry, repository, tagged):
    found, where = [], f"/v2/{repository}/tags/list?n=3"
    while where:
        answer = registry.ask("GET", where)
        assert len(answer.json["tags"]) <= 3
        found += answer.json["tags"]
        link = answer.headers.get("link")
        where = re.fullmatch(r'<(/v2/[^>]*)>; rel="next"', link)[1] if link else ""
    assert found == tagged


def test_tags_after_one(registry, repository, tagged):
    path = f"/v2/{repository}/tags/list"
    assert registry.ask("GET", f"{path}?last=a").json["tags"] == tagged[2:]
    assert registry.ask("GET", f"{path}?n=1&last=aa").json["tags"] == ["b"]
    assert registry.ask("GET", f"{path}?last=zzz").json["tags"] == []
    assert registry.ask("GET", f"{path}?n=0").json["tags"] == []


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "99999999999999"])
def test_a_number_of_tags_that_is_none(registry, repository, tagged, number):
    answer = registry.ask("GET", f"/v2/{repository}/tags/list?n={number}")
    assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")


def test_the_tags_of_a_repository_that_is_not_there(registry, repository):
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


def test_the_catalog_lists_repositories_in_pages(registry, repository, image):
    assert repository in registry.ask("GET", "/v2/_catalog").json["repositories"]
    first = registry.ask("GET", "/v2/_catalog?n=1")
    assert len(first.json["repositories"]) == 1
    assert 'rel="next"' in first.headers["link"] or len(registry.ask("GET", "/v2/_catalog").json["repositories"]) == 1


def artifact(registry: Wire, repository: str, subject: wire.Image, name: str, **fields) -> tuple[str, wire.Answer]:
    """Push a manifest that refers to ``subject``; its digest, and the answer."""
    config = fields.pop("config", (CONFIG.replace("image.config.v1+json", "empty.v1+json"), EMPTY))
    registry.put_blob(repository, config[1])
    registry.put_blob(repository, name.encode())
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": wire.descriptor(*config),
        "layers": [wire.descriptor("text/plain", name.encode())],
        "subject": subject.descriptor,
        "annotations": {"test": name},
        **fields,
    }
    raw = json.dumps(document).encode()
    answer = registry.put_manifest(repository, building.digest_of(raw), raw)
    assert answer.status == 201, answer.body
    return building.digest_of(raw), answer


def test_referrers_of_what_nothing_refers_to(registry, repository):
    answer = registry.ask("GET", f"/v2/{repository}/referrers/{ABSENT}")
    assert (answer.status, answer.headers["content-type"]) == (200, INDEX)
    assert answer.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


def test_referrers_of_what_is_no_digest(registry, repository):
    answer = registry.ask("GET", f"/v2/{repository}/referrers/tag")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_pushing_a_referrer_tells_the_subject(registry, repository, image):
    _, answer = artifact(registry, repository, image, "one", artifactType="application/x.one")
    assert answer.headers["oci-subject"] == image.digest
    missing = wire.image_of(author="not pushed")
    _, answer = artifact(registry, repository, missing, "two", artifactType="application/x.one")
    assert answer.headers["oci-subject"] == missing.digest
    listed = registry.ask("GET", f"/v2/{repository}/referrers/{missing.digest}").json["manifests"]
    assert [item["annotations"] for item in listed] == [{"test": "two"}]


def test_referrers_are_listed_with_type_and_annotations(registry, repository, image):
    first, _ = artifact(registry, repository, image, "one", artifactType="application/x.one")
    second, _ = artifact(registry, repository, image, "two", config=("application/x.two", b'{"two":2}'))
    index = {
        "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/x.one", "manifests": [image.descriptor],
        "subject": image.descriptor, "annotations": {"test": "three"},
    }  # fmt: skip
    raw = json.dumps(index).encode()
    third = building.digest_of(raw)
    assert registry.put_manifest(repository, third, raw, INDEX).headers["oci-subject"] == image.digest

    answer = registry.ask("GET", f"/v2/{repository}/referrers/{image.digest}")
    listed = {item["digest"]: item for item in answer.json["manifests"]}
    assert {digest: item["artifactType"] for digest, item in listed.items()} == {
        first: "application/x.one", second: "application/x.two", third: "application/x.one",
    }  # fmt: skip
    assert {digest: item["annotations"]["test"] for digest, item in listed.items()} == {
        first: "one", second: "two", third: "three",
    }  # fmt: skip
    assert listed[third]["mediaType"] == INDEX
    assert listed[third]["size"] == len(raw)
    assert "oci-filters-applied" not in answer.headers

    answer = registry.ask("GET", f"/v2/{repository}/referrers/{image.digest}?artifactType=application/x.one")
    assert {item["digest"] for item in answer.json["manifests"]} == {first, third}
    assert answer.headers["oci-filters-applied"] == "artifactType"

    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{first}").status == 202
    listed = registry.ask("GET", f"/v2/{repository}/referrers/{image.digest}").json["manifests"]
    assert {item["digest"] for item in listed} == {second, third}


# -- content management


def test_deleting_a_tag(registry, repository, image):
    registry.put_manifest(repository, "other", image.raw)
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/other").status == 202
    assert registry.ask("GET", f"/v2/{repository}/manifests/other").status == 404
    assert registry.ask("GET", f"/v2/{repository}/tags/list").json["tags"] == ["it"]
    assert registry.ask("GET", f"/v2/{repository}/manifests/{image.digest}").status == 200


def test_deleting_a_manifest_takes_its_tags(registry, repository, image):
    registry.put_manifest(repository, "other", image.raw)
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{image.digest}").status == 202
    for reference in ("it", "other", image.digest):
        assert registry.ask("GET", f"/v2/{repository}/manifests/{reference}").status == 404
    assert registry.ask("GET", f"/v2/{repository}/tags/list").status == 404
    answer = registry.ask("DELETE", f"/v2/{repository}/manifests/{image.digest}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


def test_deleting_in_one_repository_leaves_the_others(registry, repository, image):
    registry.put_manifest("tests/kept", "it", image.raw)
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{image.digest}").status == 202
    assert registry.ask("GET", f"/v2/{repository}/manifests/it").status == 404
    assert registry.ask("GET", "/v2/tests/kept/manifests/it").body == image.raw
    layer = list(image.blobs)[1]
    assert registry.ask("GET", f"/v2/tests/kept/blobs/{layer}").status == 200


def test_deleting_blobs(registry, repository):
    image = registry.put_image(repository, "it", building.tar(building.file("only", repository)))
    digest, _ = config_of(image)
    answer = registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED"), "an image needs it"
    registry.ask("DELETE", f"/v2/{repository}/manifests/{image.digest}")
    for blob in image.blobs:
        assert registry.ask("DELETE", f"/v2/{repository}/blobs/{blob}").status == 202
        assert registry.ask("GET", f"/v2/{repository}/blobs/{blob}").status == 404
        answer = registry.ask("DELETE", f"/v2/{repository}/blobs/{blob}")
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


def test_an_image_of_an_index_cannot_be_deleted_by_itself(registry, repository, image):
    child = registry.put_image(repository, "", LAYER_TAR, architecture="arm64", author=repository)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child.descriptor]}
    registry.put_manifest(repository, "multi", index, INDEX)
    answer = registry.ask("DELETE", f"/v2/{repository}/manifests/{child.digest}")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/multi").status == 202
    assert registry.ask("GET", f"/v2/{repository}/manifests/{child.digest}").status == 404


def test_what_was_pushed_is_an_image_of_the_store(registry, running, repository, image):
    with lamella.Store.open(running.root) as store:
        found = store.image(f"{repository}:it")
        assert str(found.digest) == image.digest
        assert found.open("/etc/motd").read() == b"hello\n"
        with store.prepare(found, driver="copy") as snapshot:
            with snapshot.mount() as root:
                assert (root / "etc/motd").read_text() == "hello\n"
