"""The record of an image: written byte for byte as docker wrote it, read as leniently as Go reads."""

from __future__ import annotations

import pytest

from lamella import errors
from lamella.formats.docker_graph import Config, GraphImage, Moment, Record, gojson

EMPTY_0_4 = (
    '{"Hostname":"","User":"","Memory":0,"MemorySwap":0,"CpuShares":0,"AttachStdin":false,"AttachStdout":false,'
    '"AttachStderr":false,"PortSpecs":null,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,'
    '"Dns":null,"Image":"","Volumes":null,"VolumesFrom":""}'
)
ZERO = "0001-01-01T00:00:00Z"
ID = "77dbf71da1d00e3fbddc480176eac8994025630c6590d11cfc8fe1209c2a1d20"


class TestWriting:
    def test_a_fresh_record_with_an_id_only(self):
        expected = f'{{"id":"{ID}","created":"{ZERO}","container_config":{EMPTY_0_4}}}'
        assert Record(id=ID).render().decode() == expected

    def test_the_golden_record(self):
        record = Record(
            id=ID,
            comment="c & <d> é",
            created=Moment.parse("2013-06-03T12:30:45.123456-07:00"),
            container="cont",
        )
        assert record.render().decode() == (
            f'{{"id":"{ID}","comment":"c \\u0026 \\u003cd\\u003e é","created":"2013-06-03T12:30:45.123456-07:00",'
            f'"container":"cont","container_config":{EMPTY_0_4}}}'
        )
        assert b'"c & \\u003cd\\u003e' in record.render(go=gojson.GO_1_1), "Go 1.0 and 1.1 left the ampersand alone"

    def test_every_field_in_its_order(self):
        record = Record(
            id="i", parent="p", comment="c", container="t", docker_version="0.4.0", author="a", config=Config(),
            architecture="x86_64", os="linux", size=7,
        )  # fmt: skip
        keys = [
            "id", "parent", "comment", "created", "container", "container_config", "docker_version", "author", "config",
            "architecture",
        ]  # fmt: skip
        assert list(record.members()) == keys
        assert list(record.members((0, 4, 1))) == [*keys, "Size"]
        assert list(record.members((0, 7, 3))) == [*keys, "os", "Size"]
        assert record.members((0, 4, 1))["Size"] == 7
        assert Record(id="i").members((0, 4, 1))["Size"] == 0, "never left out"

    def test_an_empty_config_is_written_and_none_is_not(self):
        assert f'"config":{EMPTY_0_4}' in Record(id="i", config=Config()).render().decode()
        assert '"config"' not in Record(id="i").render().decode()

    def test_the_record_of_the_layer_that_everything_stood_on(self):
        record = Record(
            id="511136ea3c5a64f264b78b5433614aec563103b4d4702f3ba7d4d2698e22c158",
            comment="Imported from -",
            created=Moment.parse("2013-06-13T14:03:50.821769-07:00"),
            docker_version="0.4.0",
            architecture="x86_64",
        )
        again = Record.parse(record.render())
        assert again == record
        assert again.render() == record.render()

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ('a"b\\c', r"a\"b\\c"),
            ("a\nb\rc", r"a\nb\rc"),
            ("a\tb", r"a\tb"),
            ("\x00\x08\x0c\x1f", r"\u0000\u0008\u000c\u001f"),
            ("\x7f", "\x7f"),
            ("<&>", r"\u003c\u0026\u003e"),
            ("\u2028\u2029", r"\u2028\u2029"),
            ("/é😀", "/é😀"),
            ("half \ud800 pair", "half \ufffd pair"),
        ],
    )
    def test_escapes(self, text, written):
        assert gojson.render(text).decode() == f'"{written}"'

    def test_escapes_of_other_versions_of_go(self):
        assert gojson.render("&\u2028\t", go=gojson.GO_1_1).decode() == '"&\u2028\\u0009"'
        assert gojson.render("&\u2028\t", go=(1, 2)).decode() == r'"\u0026\u2028\u0009"'
        assert gojson.render("\b\t", go=(1, 5)).decode() == r'"\u0008\t"'
        assert gojson.render("\b\f", go=(1, 22)).decode() == r'"\b\f"'

    def test_maps_are_sorted_by_the_bytes_of_their_keys(self):
        config = Config.of(Volumes=["/b", "/a", "/é", "/😀", "/\ufffd"])
        assert '"Volumes":{"/a":{},"/b":{},"/é":{},"/\ufffd":{},"/😀":{}}' in config.render().decode()

    def test_lists_are_null_when_there_is_none_and_empty_when_they_are(self):
        assert '"Env":[],"Cmd":["a","b"]' in Config.of(Env=[], Cmd=["a", "b"]).render().decode()

    @pytest.mark.parametrize(
        ("release", "names"),
        [
            (
                (0, 4, 0),
                "Hostname User Memory MemorySwap CpuShares AttachStdin AttachStdout AttachStderr PortSpecs Tty "
                "OpenStdin StdinOnce Env Cmd Dns Image Volumes VolumesFrom",
            ),
            (
                (1, 0, 0),
                "Hostname Domainname User Memory MemorySwap CpuShares Cpuset AttachStdin AttachStdout AttachStderr "
                "PortSpecs ExposedPorts Tty OpenStdin StdinOnce Env Cmd Image Volumes WorkingDir Entrypoint "
                "NetworkDisabled OnBuild",
            ),
        ],
    )
    def test_the_fields_of_a_configuration(self, release, names):
        assert list(Config().members(release)) == names.split()

    def test_what_is_no_field_is_refused(self):
        with pytest.raises(errors.InvalidInput, match="no field of a configuration: Comand"):
            Config.of(Comand=["sh"])

    def test_fields_come_and_go(self):
        releases = [(0, 5, 0), (0, 5, 1), (0, 6, 0), (0, 6, 2), (0, 6, 5), (0, 7, 0), (0, 8, 0), (0, 10, 0), (0, 12, 0)]
        came = {"Entrypoint"}, {"NetworkDisabled"}, {"WorkingDir", "Privileged"}, {"Domainname"}, {"ExposedPorts"}
        came += set(), {"OnBuild"}, set(), {"Cpuset"}
        went = set(), set(), set(), set(), set(), {"Privileged"}, set(), {"Dns", "VolumesFrom"}, set()
        before = set(Config().members())
        for release, new, old in zip(releases, came, went, strict=True):
            now = set(Config().members(release))
            assert (now - before, before - now) == (new, old)
            before = now


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("2013-06-03T12:30:45.123456789Z", None),
            ("2013-06-03T12:30:45.1234567891-07:00", "2013-06-03T12:30:45.123456789-07:00"),
            ("2013-06-03T12:30:45.100000000+05:30", "2013-06-03T12:30:45.1+05:30"),
            ("2013-06-03T12:30:45.000+00:00", "2013-06-03T12:30:45Z"),
            ("0001-01-01T00:00:00Z", None),
            ("9999-12-31T23:59:59.999999999-00:01", None),
        ],
    )
    def test_nanoseconds_and_zone_are_kept_and_zeros_trimmed(self, text, written):
        assert str(Moment.parse(text)) == (written or text)

    @pytest.mark.parametrize("text", ["", "2013-06-03", "2013-06-03 12:30:45Z", "2013-02-30T00:00:00Z", "now"])
    def test_what_is_no_time(self, text):
        with pytest.raises(errors.InvalidInput):
            Moment.parse(text)

    def test_instants(self):
        assert Moment.parse("1970-01-01T01:00:00.000000001+01:00").epoch_ns == 1
        assert str(Moment.of_epoch(1370287845)) == "2013-06-03T19:30:45Z"
        assert Moment.parse(ZERO).is_zero
        assert not Moment.now(utc=False).is_zero


class TestReading:
    def test_the_bytes_are_kept(self):
        raw = b' { "ID" : "x" , "unknown":{"deep":[1]} }\n'
        record = Record.parse(raw)
        assert (record.id, record.json) == ("x", raw)

    @pytest.mark.parametrize("key", ["id", "ID", "Id", "iD", "\u0131d", "\\u0069d"])
    def test_keys_match_without_case(self, key):
        expected = "" if key == "\u0131d" else "x"
        assert Record.parse(f'{{"{key}":"x"}}'.encode()).id == expected

    def test_the_odd_letters_that_go_folds(self):
        assert Record.parse('{"\u017fIZE":7}'.encode()).size == 7
        assert Record.parse('{"doc\u212aer_version":"v"}'.encode()).docker_version == "v"

    def test_null_is_absent(self):
        record = Record.parse(
            b'{"id":null,"parent":null,"created":null,"container_config":null,"config":null,"Size":null}'
        )
        assert record == Record()
        assert record.config is None

    def test_the_last_of_equal_keys_counts_and_null_takes_nothing_back(self):
        assert Record.parse(b'{"id":"a","ID":"b","id":null}').id == "b"
        merged = Record.parse(b'{"config":{"User":"u"},"config":{"Tty":true}}').config
        assert merged == Config.of(User="u", Tty=True)

    def test_a_null_document_is_an_empty_record(self):
        assert Record.parse(b"null") == Record()

    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (b"", "unexpected end of JSON input"),
            (b" \n", "unexpected end of JSON input"),
            (b"{", "image record"),
            (b"{} x", "Extra data"),
            (b'{"id":1}', "json: cannot unmarshal number into Go value of type string (Image.id)"),
            (b'{"id":true}', "json: cannot unmarshal bool"),
            (b'{"id":["a"]}', "json: cannot unmarshal array"),
            (b'{"id":{}}', "json: cannot unmarshal object"),
            (b"[]", "json: cannot unmarshal array into Go value of type struct (image record)"),
            (b'"x"', "json: cannot unmarshal string"),
            (b'{"created":7}', "json: cannot unmarshal number"),
            (b'{"created":"yesterday"}', "parsing time"),
            (b'{"Size":"7"}', "json: cannot unmarshal string into Go value of type int64 (Image.Size)"),
            (b'{"Size":1.5}', "json: cannot unmarshal number 1.5"),
            (b'{"Size":1e3}', "json: cannot unmarshal number 1e3"),
            (b'{"Size":9223372036854775808}', "json: cannot unmarshal number"),
            (b'{"container_config":{"Env":"A=1"}}', "Go value of type []string (Image.container_config.Env)"),
            (b'{"container_config":{"Env":[1]}}', "json: cannot unmarshal number"),
            (b'{"container_config":{"Memory":"1"}}', "json: cannot unmarshal string"),
            (b'{"container_config":{"Tty":"true"}}', "json: cannot unmarshal string"),
            (b'{"container_config":{"Volumes":["/a"]}}', "json: cannot unmarshal array"),
            (b'{"container_config":{"Volumes":{"/a":1}}}', "json: cannot unmarshal number"),
            (b'{"id":NaN}', "invalid character"),
            (b'{"id":"a\nb"}', "image record"),
        ],
    )
    def test_what_cannot_be_read_is_a_typed_error(self, raw, text):
        with pytest.raises(errors.InvalidInput) as caught:
            GraphImage.from_json(raw)
        assert text in str(caught.value)

    def test_the_limits_hold(self):
        with pytest.raises(errors.ResourceExhausted):
            Record.parse(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        with pytest.raises(errors.ResourceExhausted):
            Record.parse(b'{"x":' + b"[" * 100 + b"]" * 100 + b"}")
        with pytest.raises(errors.ResourceExhausted):
            Record.parse(b" " * (17 << 20))

    def test_what_is_no_utf_8_becomes_a_replacement_one_for_each_byte(self):
        assert Record.parse(b'{"id":"a\xff\xe2\x82z"}').id == "a\ufffd\ufffd\ufffdz"
        assert Record.parse(b'{"id":"\\ud800x\\ud83d\\ude00"}').id == "\ufffdx😀"

    def test_values_of_a_configuration(self):
        raw = b'{"container_config":{"env":["A=1",null],"Volumes":{"/v":{},"/w":null},"Memory":-1,"other":[{}]}}'
        config = Record.parse(raw).container_config
        assert config["Env"] == ("A=1", "")
        assert config["Volumes"] == frozenset({"/v", "/w"})
        assert config["Memory"] == -1
        assert config["Cmd"] is None
        assert hash(config) == hash(Config.of(Env=["A=1", ""], Volumes=["/v", "/w"], Memory=-1))

    def test_ids_are_not_validated(self):
        assert GraphImage.from_json(b'{"id":"../escape"}').id == "../escape"

    def test_the_size_of_0_4_1(self):
        assert Record.parse(b'{"id":"a","Size":154}').size == 154
        assert Record.parse(b'{"id":"a"}').size is None
