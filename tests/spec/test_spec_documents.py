"""Manifests, indexes and configs from outside: read strictly, kept byte by byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import InvalidInput, LamellaError, ResourceExhausted, Unsupported
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import REF_NAME, Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Index, Manifest, format_time, parse_time
from lamella.spec.limits import Limits
from lamella.spec.platform import Platform
from lamella.testing import refuses

A, B = Digest.of(b"a"), Digest.of(b"b")
MISSING = object()

CONFIG_DESCRIPTOR = {"mediaType": media.OCI_CONFIG, "digest": str(A), "size": 1}
LAYER_DESCRIPTOR = {"mediaType": media.OCI_LAYER + "+gzip", "digest": str(B), "size": 2}
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "config": CONFIG_DESCRIPTOR,
    "layers": [LAYER_DESCRIPTOR],
}
MANIFEST_DESCRIPTOR = {
    "mediaType": media.OCI_MANIFEST,
    "digest": str(A),
    "size": 3,
    "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
}
INDEX = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [MANIFEST_DESCRIPTOR]}
CONFIG = {
    "created": "2024-05-06T07:08:09.123456789Z",
    "author": "me",
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "Labels": {"k": "v"}, "User": "1", "Volumes": {"/v": {}}},
    "rootfs": {"type": "layers", "diff_ids": [str(A), str(B)]},
    "history": [
        {"created": "2024-05-06T07:08:09Z", "created_by": "ADD"},
        {"created_by": "CMD", "empty_layer": True, "author": "you", "comment": "c"},
        {"created_by": "RUN"},
    ],
}


def changed(document, path, value):
    """The JSON of ``document`` with one field replaced, or left out."""
    copy = json.loads(json.dumps(document))
    *parents, last = path.split("/")
    place = copy
    for step in parents:
        place = place[int(step) if isinstance(place, list) else step]
    last = int(last) if isinstance(place, list) else last
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return json.dumps(copy).encode()


def encode(document):
    return json.dumps(document).encode()


class TestManifest:
    def test_its_fields_are_a_view_of_its_bytes(self):
        raw = json.dumps(MANIFEST, indent=7).encode() + b"\n\n"
        manifest = Manifest.parse(raw)
        assert manifest.raw == raw
        assert manifest.config == Descriptor(media.OCI_CONFIG, A, 1)
        assert manifest.layers == (Descriptor(media.OCI_LAYER + "+gzip", B, 2),)
        assert manifest.descriptor == Descriptor(media.OCI_MANIFEST, Digest.of(raw), len(raw))
        assert manifest.is_image
        assert (manifest.subject, manifest.artifact_type, manifest.annotations) == (None, "", {})

    def test_unknown_fields_do_not_matter(self):
        raw = encode({**MANIFEST, "future": {"x": [1, 2.5, None]}, "config": {**CONFIG_DESCRIPTOR, "data": "YQ=="}})
        assert Manifest.parse(raw).config == Descriptor(media.OCI_CONFIG, A, 1)

    def test_an_artifact_is_kept_and_is_no_image(self):
        document = {
            **MANIFEST,
            "artifactType": "application/x",
            "subject": MANIFEST_DESCRIPTOR,
            "annotations": {"a": "b"},
            "config": {**CONFIG_DESCRIPTOR, "mediaType": "application/vnd.oci.empty.v1+json"},
        }
        manifest = Manifest.parse(encode(document))
        assert not manifest.is_image
        assert manifest.subject == Descriptor(media.OCI_MANIFEST, A, 3, platform=Platform("linux", "arm64", "v8"))
        assert (manifest.artifact_type, manifest.annotations) == ("application/x", {"a": "b"})

    def test_a_layer_that_is_no_tar_makes_it_no_image(self):
        raw = changed(MANIFEST, "layers/0/mediaType", "application/vnd.dev.cosign.simplesigning.v1+json")
        assert not Manifest.parse(raw).is_image

    def test_the_media_type_is_stated_offered_or_that_of_oci(self):
        untyped = changed(MANIFEST, "mediaType", MISSING)
        docker = changed(MANIFEST, "mediaType", media.DOCKER_MANIFEST)
        assert Manifest.parse(untyped).media_type == media.OCI_MANIFEST
        assert Manifest.parse(changed(MANIFEST, "mediaType", None)).media_type == media.OCI_MANIFEST
        assert Manifest.parse(changed(MANIFEST, "mediaType", "")).media_type == media.OCI_MANIFEST
        assert Manifest.parse(untyped, media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
        assert Manifest.parse(docker).media_type == media.DOCKER_MANIFEST
        assert Manifest.parse(docker, media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST

    def test_no_layers_may_be_written_as_null_the_way_go_does(self):
        assert Manifest.parse(changed(MANIFEST, "layers", None)).layers == ()
        assert Manifest.parse(changed(MANIFEST, "layers", [])).layers == ()

    @pytest.mark.parametrize("offered", [media.DOCKER_MANIFEST, media.OCI_INDEX, "text/html"])
    def test_what_says_otherwise_than_it_was_offered_as_is_refused(self, offered):
        with refuses(InvalidInput, "media-type-mismatch", naming=offered):
            Manifest.parse(encode(MANIFEST), offered)

    @pytest.mark.parametrize("stated", [media.OCI_INDEX, media.OCI_CONFIG, "text/html", "x" * 10_000])
    def test_other_media_types_are_unsupported(self, stated):
        with refuses(Unsupported, "media-type", naming=stated[:100]):
            Manifest.parse(changed(MANIFEST, "mediaType", stated))

    def test_what_could_be_an_index_too_is_refused(self):
        """CVE-2021-41190."""
        with refuses(InvalidInput, "document-ambiguous"):
            Manifest.parse(encode({**MANIFEST, "manifests": [MANIFEST_DESCRIPTOR]}))

    @pytest.mark.parametrize("version", [0, 1, 3, -2, 2**80])
    def test_other_schemas_are_unsupported(self, version):
        with refuses(Unsupported, "schema-version"):
            Manifest.parse(changed(MANIFEST, "schemaVersion", version))

    def test_too_many_layers(self):
        raw = changed(MANIFEST, "layers", [LAYER_DESCRIPTOR] * 4)
        assert len(Manifest.parse(raw, limits=Limits(layers=4)).layers) == 4
        with refuses(ResourceExhausted, "layer-count"):
            Manifest.parse(raw, limits=Limits(layers=3))

    @pytest.mark.parametrize(
        "path",
        ["schemaVersion", "config", "layers", "config/mediaType", "config/digest", "config/size", "layers/0/mediaType",
         "layers/0/digest", "layers/0/size"],
    )  # fmt: skip
    def test_missing_fields(self, path):
        with refuses(InvalidInput, "document-missing-field", naming=path.rpartition("/")[2]):
            Manifest.parse(changed(MANIFEST, path, MISSING))

    @pytest.mark.parametrize(
        ("path", "value"),
        [("schemaVersion", "2"), ("schemaVersion", True), ("schemaVersion", 2.0), ("mediaType", 5), ("mediaType", []),
         ("config", "x"), ("config", []), ("layers", {}), ("layers", "x"), ("layers", 5), ("config/mediaType", 1),
         ("config/mediaType", ["x"]), ("config/digest", 1), ("config/digest", {}), ("config/size", "1"),
         ("config/size", True), ("config/size", 1.0), ("config/size", [1]), ("config/annotations", []),
         ("config/annotations", {"a": 1}), ("config/urls", "http"), ("config/urls", [1]), ("config/platform", "linux"),
         ("config/platform", []), ("config/artifactType", 1), ("annotations", "x"), ("annotations", {"a": None}),
         ("artifactType", 1)],
    )  # fmt: skip
    def test_wrong_typed_fields(self, path, value):
        with refuses(InvalidInput, "document-wrong-type", naming=path.rpartition("/")[2]):
            Manifest.parse(changed(MANIFEST, path, value))

    @pytest.mark.parametrize("path", ["layers/0", "subject"])
    @pytest.mark.parametrize("value", ["x", 1, [1], True])
    def test_descriptors_that_are_no_objects(self, path, value):
        with refuses(InvalidInput, "document-type", naming=path.partition("/")[0]):
            Manifest.parse(changed({**MANIFEST, "subject": None}, path, value))

    @pytest.mark.parametrize("size", [-1, -(2**70), 2**63, 2**64, 10**400])
    def test_impossible_sizes(self, size):
        with refuses(InvalidInput, "descriptor-size", naming="layers[0]"):
            Manifest.parse(changed(MANIFEST, "layers/0/size", size))

    def test_the_largest_size(self):
        assert Manifest.parse(changed(MANIFEST, "layers/0/size", 2**63 - 1)).layers[0].size == 2**63 - 1

    def test_bad_digests_name_their_place(self):
        for value, code in (("sha256:x", "digest-syntax"), ("md5:" + "a" * 32, "digest-algorithm")):
            with refuses(InvalidInput, code, naming="'digest' of layers[0] of manifest"):
                Manifest.parse(changed(MANIFEST, "layers/0/digest", value))


class TestIndex:
    def test_its_fields_are_a_view_of_its_bytes(self):
        raw = encode({**INDEX, "annotations": {"a": "b"}}) + b" "
        index = Index.parse(raw)
        assert (index.raw, index.media_type, index.annotations) == (raw, media.OCI_INDEX, {"a": "b"})
        assert index.manifests == (Descriptor(media.OCI_MANIFEST, A, 3, platform=Platform("linux", "arm64", "v8")),)
        assert index.descriptor == Descriptor(media.OCI_INDEX, Digest.of(raw), len(raw))

    def test_names_and_nested_indexes(self):
        named = {**MANIFEST_DESCRIPTOR, "annotations": {REF_NAME: "v1"}, "mediaType": media.DOCKER_INDEX}
        (descriptor,) = Index.parse(encode({**INDEX, "manifests": [named]})).manifests
        assert descriptor.annotations[REF_NAME] == "v1"
        assert descriptor.is_index
        assert not descriptor.is_manifest

    def test_empty_ones(self):
        assert Index.parse(changed(INDEX, "manifests", [])).manifests == ()
        assert Index.parse(changed(INDEX, "manifests", None)).manifests == ()
        with refuses(InvalidInput, "document-missing-field", naming="manifests"):
            Index.parse(changed(INDEX, "manifests", MISSING))

    def test_media_types(self):
        untyped = changed(INDEX, "mediaType", MISSING)
        assert Index.parse(untyped).media_type == media.OCI_INDEX
        assert Index.parse(untyped, media.DOCKER_INDEX).media_type == media.DOCKER_INDEX
        with refuses(Unsupported, "media-type"):
            Index.parse(untyped, media.OCI_MANIFEST)
        with refuses(InvalidInput, "media-type-mismatch"):
            Index.parse(encode(INDEX), media.DOCKER_INDEX)

    @pytest.mark.parametrize("extra", [{"layers": []}, {"config": CONFIG_DESCRIPTOR}, {"layers": None}])
    def test_what_could_be_a_manifest_too_is_refused(self, extra):
        with refuses(InvalidInput, "document-ambiguous"):
            Index.parse(encode({**INDEX, **extra}))


class TestImageConfig:
    def test_its_fields_are_a_view_of_its_bytes(self):
        raw = json.dumps(CONFIG, indent=1).encode()
        config = ImageConfig.parse(raw)
        assert config.raw == raw
        assert config.id == Digest.of(raw)
        assert config.fields == CONFIG
        assert config.platform == Platform("linux", "arm64", "v8")
        assert config.created == datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)
        assert config.author == "me"
        assert config.config["Cmd"] == ["/bin/sh"]
        assert config.labels == {"k": "v"}
        assert config.diff_ids == (A, B)
        assert config.chain_ids[0] == A
        add, cmd, run = config.history
        assert (add.created, add.created_by, add.empty_layer) == (datetime(2024, 5, 6, 7, 8, 9, 0, UTC), "ADD", False)
        assert (cmd.empty_layer, cmd.author, cmd.comment, cmd.created) == (True, "you", "c", None)
        assert run.created_by == "RUN"

    def test_the_least_that_is_a_config(self):
        config = ImageConfig.parse(b'{"rootfs":{}}')
        assert (config.platform, config.created, config.author) == (Platform("", ""), None, "")
        assert (config.config, config.labels, config.diff_ids, config.history) == ({}, {}, (), ())
        nulls = dict.fromkeys(CONFIG) | {"rootfs": {"type": None, "diff_ids": None}}
        assert ImageConfig.parse(encode(nulls)).history == ()

    def test_unknown_fields_are_kept(self):
        document = {**CONFIG, "container_config": {"Hostname": "x"}, "config": {**CONFIG["config"], "Healthcheck": {}}}
        config = ImageConfig.parse(encode(document))
        assert config.fields["container_config"] == {"Hostname": "x"}
        assert config.config["Healthcheck"] == {}

    def test_a_history_of_fewer_layers_is_common_and_of_more_is_refused(self):
        assert len(ImageConfig.parse(changed(CONFIG, "history", CONFIG["history"][:1])).history) == 1
        assert ImageConfig.parse(changed(CONFIG, "history", MISSING)).history == ()
        with refuses(InvalidInput, "history-layers"):
            ImageConfig.parse(changed(CONFIG, "history", CONFIG["history"] * 2))

    def test_a_config_without_rootfs_is_refused(self):
        with refuses(InvalidInput, "document-missing-field", naming="rootfs"):
            ImageConfig.parse(changed(CONFIG, "rootfs", MISSING))

    def test_another_rootfs_is_unsupported(self):
        with refuses(Unsupported, "rootfs-type"):
            ImageConfig.parse(changed(CONFIG, "rootfs/type", "layers+base"))

    def test_too_many_layers(self):
        with refuses(ResourceExhausted, "layer-count"):
            ImageConfig.parse(changed(CONFIG, "rootfs/diff_ids", [str(A)] * 4), limits=Limits(layers=3))

    def test_a_bad_diff_id_names_its_place(self):
        with refuses(InvalidInput, "digest-syntax", naming="diff_ids[1]"):
            ImageConfig.parse(changed(CONFIG, "rootfs/diff_ids/1", "../../etc/passwd"))

    @pytest.mark.parametrize(
        ("path", "value"),
        [("created", 5), ("created", []), ("author", 1), ("architecture", 1), ("os", ["linux"]), ("variant", {}),
         ("config", "x"), ("config", []), ("config/Cmd", "sh"), ("config/Cmd", [1]), ("config/Cmd", {"a": "b"}),
         ("config/Entrypoint", "sh"), ("config/Env", {"A": "b"}), ("config/Env", ["A", None]), ("config/Labels", []),
         ("config/Labels", {"a": 1}), ("config/User", 0), ("config/WorkingDir", []), ("config/StopSignal", 9),
         ("config/ExposedPorts", ["80"]), ("config/Volumes", ["/v"]), ("config/OnBuild", "x"), ("config/Shell", "x"),
         ("rootfs", []), ("rootfs", "layers"), ("rootfs/type", 1), ("rootfs/diff_ids", "x"), ("rootfs/diff_ids", {}),
         ("rootfs/diff_ids/0", 1), ("rootfs/diff_ids/0", None), ("history", {}), ("history", "x"), ("history/0", None),
         ("history/0", "x"), ("history/0/created", 1), ("history/0/created_by", []), ("history/0/author", 1),
         ("history/0/comment", {}), ("history/1/empty_layer", "true"), ("history/1/empty_layer", 1)],
    )  # fmt: skip
    def test_wrong_typed_fields(self, path, value):
        with refuses(InvalidInput, "document-wrong-type"):
            ImageConfig.parse(changed(CONFIG, path, value))

    @pytest.mark.parametrize("path", ["created", "history/0/created"])
    def test_times_that_are_none(self, path):
        with refuses(InvalidInput, "time-syntax", naming="yesterday"):
            ImageConfig.parse(changed(CONFIG, path, "yesterday"))


class TestJson:
    @pytest.mark.parametrize(
        "raw",
        [b"", b" ", b"{", b"}", b"{}{}", b"{} x", b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{a:1}', b'{"a":.5}',
         b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b'{"a":"\x00"}', b'{"a":"\n"}', b'{"a":"\\x"}',
         b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":["\\ud83d"]}', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}',
         b'{"a":' + b"1" * 5000 + b"}", b"// x\n{}", b"{}\0", b'{"a":+1}'],
    )  # fmt: skip
    def test_what_is_no_json_is_refused(self, raw):
        with refuses(InvalidInput, "document-syntax", naming="thing"):
            jsondoc.parse_object(raw, "thing")

    @pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"x"', b"true"])
    def test_what_is_no_object_is_refused(self, raw):
        with refuses(InvalidInput, "document-type"):
            jsondoc.parse_object(raw, "thing")

    @pytest.mark.parametrize(
        "raw", [b'{"a":1,"a":1}', b'{"x":{"a":1,"b":2,"a":3}}', b'{"x":[{"a":1,"\\u0061":3}]}', b'{"":1,"":2}']
    )
    def test_duplicate_keys_are_refused(self, raw):
        with refuses(InvalidInput, "document-duplicate-key"):
            jsondoc.parse_object(raw, "thing")

    def test_text_is_unicode(self):
        assert jsondoc.parse_object(b'{"a":"\\ud83d\\ude00\\u0000"}', "thing") == {"a": "\U0001f600\0"}
        assert jsondoc.parse_object(b'{"a":"\\\\ud800"}', "thing") == {"a": "\\ud800"}

    @pytest.mark.parametrize("depth", [65, 1000, 100_000, 1_000_000])
    @pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
    def test_nesting_bombs(self, depth, opening, closing):
        for tail in (b"1" + closing * depth, b""):
            with pytest.raises((ResourceExhausted, InvalidInput)) as caught:
                jsondoc.parse_object(b'{"x":' + opening * depth + tail + b"}", "thing")
            assert caught.value.code in ("document-depth", "document-syntax")

    def test_the_depth_that_is_allowed(self):
        def nested(depth):
            return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

        limits = Limits(document_depth=5)
        jsondoc.parse_object(nested(5), "thing", limits=limits)
        with refuses(ResourceExhausted, "document-depth"):
            jsondoc.parse_object(nested(6), "thing", limits=limits)

    def test_a_nesting_bomb_at_the_bottom_of_a_deep_stack(self):
        def descend(levels):
            if levels:
                return descend(levels - 1)
            with refuses(ResourceExhausted, "document-depth"):
                jsondoc.parse_object(b'{"x":' + b"[" * 500 + b"]" * 500 + b"}", "thing")
            return True

        assert descend(400)

    def test_documents_over_the_limit_are_not_parsed(self):
        with refuses(ResourceExhausted, "document-size"):
            jsondoc.parse_object(b"{" * 101, "thing", limits=Limits(document_bytes=100))

    def test_rendering_is_compact_and_keeps_the_order(self):
        assert jsondoc.render({"b": 1, "a": ["é", None]}) == '{"b":1,"a":["é",null]}'.encode()

    @given(st.binary(max_size=60) | st.text('{}[]":,0\\ua', max_size=40).map(str.encode))
    def test_any_bytes_are_a_document_or_a_typed_error(self, raw):
        for parse in (Manifest.parse, Index.parse, ImageConfig.parse):
            code = outcome(parse, raw)
            assert code.startswith(("document-", "schema-"))

    @given(
        st.sampled_from([(Manifest.parse, MANIFEST), (Index.parse, INDEX), (ImageConfig.parse, CONFIG)]),
        st.data(),
    )
    def test_any_value_in_any_place_is_read_or_is_a_typed_error(self, kind, data):
        parse, document = kind
        values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        )
        raw = changed(document, data.draw(st.sampled_from(sorted(paths(document)))), data.draw(values))
        assert outcome(parse, raw)


def outcome(parse, raw):
    """``parsed``, or the code of the error."""
    try:
        parsed = parse(raw)
    except LamellaError as error:
        return error.code
    assert parsed.raw == raw
    return "parsed"


def paths(value, prefix=""):
    """Every place in a document, but for members whose own name has a slash."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        if "/" not in str(key):
            yield f"{prefix}{key}"
            yield from paths(member, f"{prefix}{key}/")


class TestDescriptors:
    def test_json_forms_round_trip(self):
        full = Descriptor("m", A, 5, {"a": "b"}, Platform("linux", "amd64"), "t", ("http://x",))
        for descriptor in (Descriptor("m", A, 0), full):
            assert Descriptor.from_object(json.loads(jsondoc.render(descriptor.to_object()))) == descriptor
        assert Descriptor("m", A, 0).to_object() == {"mediaType": "m", "digest": str(A), "size": 0}

    def test_naming_one_keeps_the_rest(self):
        named = Descriptor("m", A, 5, {"a": "b"}).named("v1")
        assert named.annotations == {"a": "b", REF_NAME: "v1"}
        assert (named.digest, named.size) == (A, 5)

    def test_they_can_be_keys(self):
        assert len({Descriptor("m", A, 1, {"a": "b"}), Descriptor("m", A, 1, {"a": "b"}), Descriptor("m", B, 1)}) == 2

    def test_the_one_of_some_bytes(self):
        assert Descriptor.of("m", b"abc") == Descriptor("m", Digest.of(b"abc"), 3)

    @pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz", "zstd"])
    @pytest.mark.parametrize("docker", [False, True])
    def test_every_layer_type_that_is_written_is_known(self, compression, docker):
        assert Descriptor(media.layer(compression, docker=docker), A, 1).is_layer

    def test_the_layer_types_of_the_specifications(self):
        for text in (
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ):
            assert text in media.LAYERS
        assert media.layer("gzip") == "application/vnd.oci.image.layer.v1.tar+gzip"
        assert media.layer("gzip", docker=True) == "application/vnd.docker.image.rootfs.diff.tar.gzip"


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9, 0, UTC)),
            ("2024-05-06T07:08:09.1Z", datetime(2024, 5, 6, 7, 8, 9, 100000, UTC)),
            ("2024-05-06T07:08:09.123456789Z", datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)),
            ("2024-05-06T07:08:09.999999999999Z", datetime(2024, 5, 6, 7, 8, 9, 999999, UTC)),
            ("2024-05-06T07:08:09+05:30", datetime(2024, 5, 6, 1, 38, 9, 0, UTC)),
            ("2013-06-13T14:03:50.821769-07:00", datetime(2013, 6, 13, 21, 3, 50, 821769, UTC)),
            ("2024-05-06T07:08:09-00:00", datetime(2024, 5, 6, 7, 8, 9, 0, UTC)),
            ("2024-05-06t07:08:09z", datetime(2024, 5, 6, 7, 8, 9, 0, UTC)),
            ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
            ("0001-01-01T00:00:01Z", datetime(1, 1, 1, 0, 0, 1, 0, UTC)),
            ("0000-12-31T23:59:59Z", None),
            ("9999-12-31T23:59:59.999999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ],
    )
    def test_rfc_3339(self, text, moment):
        if moment is None:
            with refuses(InvalidInput, "time-syntax"):
                parse_time(text)
            return
        assert parse_time(text) == moment
        assert parse_time(text).utcoffset() is not None
        assert parse_time(format_time(parse_time(text))) == moment

    def test_go_s_zero_time_is_none(self):
        assert parse_time("0001-01-01T00:00:00Z") is None
        assert parse_time("0001-01-01T00:00:00.000000000Z") is None
        assert parse_time("") is None
        assert parse_time(None) is None

    @pytest.mark.parametrize(
        "text",
        ["now", "2024", "2024-05-06", "2024-05-06T07:08:09", "2024-05-06 07:08:09Z", "20240506T070809Z", "2024-W19-1",
         "2024-05-06T07:08Z", "2024-05-06T07:08:09,5Z", "2024-05-06T07:08:09.Z", "2024-13-01T00:00:00Z",
         "2024-02-30T00:00:00Z", "2024-05-06T24:00:00Z", "2024-05-06T07:08:60Z", "2024-05-06T07:08:09+0530",
         "2024-05-06T07:08:09+25:00", "10000-01-01T00:00:00Z", "-2024-05-06T07:08:09Z", " 2024-05-06T07:08:09Z",
         "2024-05-06T07:08:09Z\n", "2024-05-06T07:08:09ZZ", "\u0662\u0660\u0662\u0664-05-06T07:08:09Z", "9" * 100_000],
    )  # fmt: skip
    def test_anything_else_is_refused(self, text):
        with refuses(InvalidInput, "time-syntax"):
            parse_time(text)

    def test_writing(self):
        zone = timezone(timedelta(hours=2))
        assert format_time(datetime(2024, 5, 6, 9, 8, 9, 0, zone)) == "2024-05-06T07:08:09Z"
        assert format_time(datetime(2024, 5, 6, 7, 8, 9, 5, UTC)) == "2024-05-06T07:08:09.000005Z"
        assert format_time(datetime(1, 1, 1, 0, 0, 1, 0, zone)) == "0001-01-01T00:00:01+02:00"

    @given(st.datetimes(), st.integers(-1439, 1439))
    def test_what_is_written_is_read_again(self, local, offset):
        moment = local.replace(tzinfo=timezone(timedelta(minutes=offset)))
        assert parse_time(format_time(moment)) in (moment, None)
