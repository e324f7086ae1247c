"""The records of docker's old save format, against those that docker 20.10 wrote for the same images."""

from __future__ import annotations

import json

from lamella.formats.docker_v1 import v1_records
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig

ZERO_CONFIG = (
    '{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,'
    '"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"",'
    '"Entrypoint":null,"OnBuild":null,"Labels":null}'
)

LAYERS = [
    "sha256:b7cb7daa8e4c3dfef66bcdc021f3f4335bdb2fb729949100b70e720c86c5059c",
    "sha256:c134da85c433125ffe673e063111ac80d1f38e4f43b350fd759053921c394656",
    "sha256:f62d9daf3184a356cf0c27110b894535a92bc359baace343dd41b7e15500229d",
]

BY_HAND = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2024-01-02T03:04:05.120Z",
    "config": {
        "Cmd": ["/bin/sh"],
        "Env": ["A=<b>"],
        "Healthcheck": {"Retries": 3, "Test": ["CMD", "true"], "Interval": 1000000000},
        "Labels": {"z": "1", "a": "&"},
        "Volumes": {"/z9": {}, "/b2": {}},
        "StopTimeout": 5,
        "StopSignal": "SIGINT",
        "Shell": ["/bin/sh", "-c"],
        "User": "u",
        "Unknown": 1,
    },
    "author": "Zoë <z@example.org>",
    "comment": "made & kept",
    "variant": "v8",
    "rootfs": {"type": "layers", "diff_ids": LAYERS[:2]},
}

BY_HAND_TOP = (
    '{"id":"85d26e436606ba207b6ca67ba330049ca740a75ab76aa46a7a966dfd57f314d0",'
    '"parent":"5145c3469ab124a5c9ed07437773b518f78a18524001516a55538742a5d2fe8c",'
    '"comment":"made \\u0026 kept","created":"2024-01-02T03:04:05.12Z","container_config":' + ZERO_CONFIG + ","
    '"author":"Zoë \\u003cz@example.org\\u003e","config":{"Hostname":"","Domainname":"","User":"u","AttachStdin":false,'
    '"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,'
    '"Env":["A=\\u003cb\\u003e"],"Cmd":["/bin/sh"],'
    '"Healthcheck":{"Test":["CMD","true"],"Interval":1000000000,"Retries":3},"Image":"",'
    '"Volumes":{"/b2":{},"/z9":{}},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{"a":"\\u0026","z":"1"},'
    '"StopSignal":"SIGINT","StopTimeout":5,"Shell":["/bin/sh","-c"]},"architecture":"amd64","variant":"v8",'
    '"os":"linux"}'
)

RUN = (
    '{"Hostname":"e22d1dc91e44","Domainname":"","User":"u","AttachStdin":false,"AttachStdout":true,'
    '"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["A=\\u003cb\\u003e"],"Cmd":["sh"],'
    '"Healthcheck":{"Test":["CMD","true"],"Interval":1000000000,"Retries":3},"Image":"gold:base",'
    '"Volumes":{"/b2":{},"/z9":{}},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{"a":"\\u0026","z":"1"},'
    '"StopSignal":"SIGINT"}'
)

BY_DOCKER = (
    '{"architecture":"amd64","config":' + RUN + ","
    '"container":"e22d1dc91e44c24ea6a7ef19b39c73f8d14737fcdcf23d5285c043daec889782",'
    '"container_config":' + RUN + ',"created":"2026-11-23T20:57:08.377162967Z","docker_version":"20.10.24+dfsg1",'
    '"history":[{"created":"2026-11-23T20:57:08.377162967Z","created_by":"sh","comment":"x"}],"os":"linux",'
    '"rootfs":{"type":"layers","diff_ids":' + json.dumps(LAYERS) + '},"variant":"v8"}'
)

BY_DOCKER_TOP = (
    '{"id":"b4da4484eea8ee4a5674b41fdf5cac8da653f80c916bfdd87de69e9c46b57cd2",'
    '"parent":"3380527dccc601e6c8537d688145f983fa6e9e316b286db27e71d68cc3aadc1a",'
    '"created":"2026-11-23T20:57:08.377162967Z",'
    '"container":"e22d1dc91e44c24ea6a7ef19b39c73f8d14737fcdcf23d5285c043daec889782",'
    '"container_config":' + RUN + ',"docker_version":"20.10.24+dfsg1","config":' + RUN + ","
    '"architecture":"amd64","variant":"v8","os":"linux"}'
)


def test_records_of_an_image_from_elsewhere_are_those_that_docker_writes():
    records = v1_records(ImageConfig.parse(json.dumps(BY_HAND).encode()))
    bottom = "5145c3469ab124a5c9ed07437773b518f78a18524001516a55538742a5d2fe8c"
    assert [record.id for record in records] == [bottom, json.loads(BY_HAND_TOP)["id"]]
    assert records[0].json.decode() == (
        f'{{"id":"{bottom}","created":"1970-01-01T00:00:00Z","container_config":{ZERO_CONFIG},"os":"linux"}}'
    )
    assert records[1].json.decode() == BY_HAND_TOP
    assert [record.diff_id for record in records] == [Digest.parse(layer) for layer in LAYERS[:2]]


def test_records_of_an_image_that_docker_committed_are_those_that_docker_writes():
    records = v1_records(ImageConfig.parse(BY_DOCKER.encode()))
    assert [record.id[:12] for record in records] == ["5145c3469ab1", "3380527dccc6", "b4da4484eea8"]
    assert records[2].json.decode() == BY_DOCKER_TOP


def test_an_image_that_says_nothing_of_itself_has_records_too():
    config = {"rootfs": {"type": "layers", "diff_ids": LAYERS[:1]}, "container_config": "nonsense"}
    (record,) = v1_records(ImageConfig.parse(json.dumps(config).encode()))
    assert json.loads(record.json) == {
        "id": record.id,
        "created": "0001-01-01T00:00:00Z",
        "container_config": json.loads(ZERO_CONFIG),
    }
    assert v1_records(ImageConfig.parse(b'{"rootfs":{"type":"layers","diff_ids":[]}}')) == []
