"""The verbs for registries, as users run them."""

from __future__ import annotations

import json
import stat
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from cli_support import BASE, Cli, tar_of

from support import layouts, wire
from support.building import digest_of, file, tar
from support.needs import needs_tool
from support.peers import run, skopeo_inspect
from support.scripted import Reply, scripted

pytestmark = needs_tool("docker-registry", "htpasswd", "openssl", "skopeo")

LAYER = tar(file("etc/os-release", b"ID=small\n"))


@pytest.fixture
def cli(disk: Path) -> Cli:
    """The command on a store that is not there yet, of a user with a home of its own."""
    for name in ("work", "home", "run"):
        (disk / name).mkdir()
    return Cli(disk / "store", disk / "work", {"HOME": str(disk / "home"), "XDG_RUNTIME_DIR": str(disk / "run")})


def test_a_user_logs_in_pushes_pulls_and_logs_out(cli, token_registry):
    host, user, password = token_registry.host, token_registry.user, token_registry.password
    cli("import", "-q", "-", f"{host}/me/base:1", stdin=tar_of(BASE))
    assert "it refuses the credentials" in cli.fails(17, "login", "-u", user, "--password-stdin", host, stdin=b"no\n")
    auth = Path(cli.env["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    assert not auth.exists()
    assert cli.fails(17, "push", "-q", f"{host}/me/base:1").endswith(f"'lamella login {host}'")
    login = cli("login", "-u", user, "--password-stdin", host, stdin=f"{password}\n".encode())
    assert login.text == "Login Succeeded\n"
    assert stat.S_IMODE(auth.stat().st_mode) == 0o600
    digest = cli("push", "-q", f"{host}/me/base:1").text.strip()
    assert skopeo_inspect(f"docker://{host}/me/base:1", *token_registry.skopeo_options())["Digest"] == digest
    assert cli("tags", f"{host}/me/base").lines == ["1"]
    assert cli("tags", "--json", f"docker://{host}/me/base").json["tags"] == ["1"]
    before = cli("images", "--json").json[0]["id"]
    cli("rmi", f"{host}/me/base:1")
    pulled = cli("pull", "-q", f"{host}/me/base:1", quiet=True)
    assert pulled.text == f"{before}\n"
    assert cli("cat", f"{host}/me/base:1", "/etc/motd").out == b"welcome\n"
    assert cli("logout", host).text == f"Removed login credentials for {host}\n"
    assert password not in auth.read_text()
    assert json.loads(auth.read_text())["auths"] == {}
    assert "there are no credentials" in cli.fails(10, "logout", host)


def test_credentials_of_one_command_and_one_file(cli, users_registry, disk):
    host, user, password = users_registry.host, users_registry.user, users_registry.password
    creds = ("--creds", f"{user}:{password}")
    cli("import", "-q", "-", f"{host}/me/base:1", stdin=tar_of(BASE))
    cli("push", "-q", *creds, f"{host}/me/base:1")
    message = cli.fails(17, "pull", "-q", "--creds", f"{user}:wrong-word", f"{host}/me/base:1")
    assert "wrong-word" not in message
    authfile = disk / "auth.json"
    cli("login", "--authfile", authfile, "-u", user, "-p", password, host)
    cli.env["REGISTRY_AUTH_FILE"] = str(authfile)
    cli("pull", "-q", f"{host}/me/base:1")
    assert not (disk / "home/.config").exists()


def test_all_tags_and_all_platforms(cli, registry, tmp_path):
    layout = layouts.real("hello-world-10-platforms", tmp_path / "image")
    cli("copy", "-q", f"oci:{layout}", f"docker://{registry.host}/h:all")
    small = wire.Wire(registry.host).put_image("h", "one", LAYER)
    assert len(cli("pull", "-q", "-a", f"{registry.host}/h").lines) == 2
    names = {name for item in cli("images", "--json").json for name in item["names"]}
    assert names == {f"{registry.host}/h:all", f"{registry.host}/h:one"}
    (index,) = cli("pull", "-q", "--json", "--all-platforms", f"{registry.host}/h:all").json
    assert (index["kind"], index["id"]) == ("index", None)
    (image,) = cli("pull", "-q", "--json", f"{registry.host}/h:one").json
    assert image["digest"] == small.digest
    by_platform = cli("pull", "-q", "--json", "--platform", "linux/s390x", f"{registry.host}/h:all").json[0]
    assert by_platform["digest"] != index["digest"]
    assert "exclude each other" in cli.fails(2, "pull", "--all-platforms", "--platform", "linux/amd64", "x")


def test_inspect_of_what_is_at_a_registry(cli, registry, tmp_path):
    layout = layouts.real("hello-world-10-platforms", tmp_path / "image")
    cli("copy", "-q", f"oci:{layout}", f"docker://{registry.host}/h:all")
    small = wire.Wire(registry.host).put_image("a/b", "1", LAYER, author="me")
    wire.Wire(registry.host).put_image("a/b", f"sha256-{small.digest[7:]}.sig", LAYER)
    found, index = cli("inspect", f"docker://{registry.host}/a/b:1", f"docker://{registry.host}/h:all").json
    assert (found["kind"], found["digest"], found["author"]) == ("image", small.digest, "me")
    assert list(found["signatures"]) == [f"sha256-{small.digest[7:]}.sig"]
    assert [layer["digest"] for layer in found["layers"]] == list(small.blobs)[1:]
    assert (index["kind"], len(index["manifests"])) == ("index", 10)
    assert registry.server.output.count("GET /v2/a/b/blobs/") == 1  # the config
    assert not cli.root.exists()
    table = cli("referrers", f"{registry.host}/a/b:1").lines
    assert "cosign: sha256-" in table[1]


def test_copies_that_need_no_store_make_none(cli, registry, disk):
    image = wire.Wire(registry.host).put_image("a/b", "1", LAYER)
    printed = cli("copy", "-q", f"docker://{registry.host}/a/b:1", f"oci-archive:{disk}/x.tar:it")
    assert printed.text == f"{image.digest}\n"
    cli("copy", "-q", f"oci-archive:{disk}/x.tar:it", f"docker://{registry.host}/c/d:1")
    cli("copy", "-q", f"docker://{registry.host}/a/b:1", f"docker://{registry.host}/e:1")
    assert not cli.root.exists()
    run("skopeo", "copy", "-q", f"oci-archive:{disk}/x.tar:it", f"oci:{disk}/unpacked:it")
    copied = cli("copy", "-q", "--json", f"oci:{disk}/unpacked:it", "kept:1").json
    assert [item["digest"] for item in copied] == [image.digest]
    cli("copy", "-q", "kept:1", f"docker-archive:{disk}/d.tar:kept:2")
    assert skopeo_inspect(f"docker-archive:{disk}/d.tar")["Layers"]
    assert "names no file" in cli.fails(12, "copy", "oci:", "x")


def test_policies_are_obeyed_and_may_be_set_aside(cli, registry, disk):
    wire.Wire(registry.host).put_image("a/b", "1", LAYER)
    policy = disk / "policy.json"
    policy.write_text('{"default": [{"type": "reject"}]}')
    name = f"{registry.host}/a/b:1"
    assert "the policy rejects it" in cli.fails(16, "pull", "-q", "--policy", policy, name)
    policy.write_text('{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"}]}')
    assert "cannot be verified here" in cli.fails(19, "pull", "-q", "--policy", policy, name)
    own = disk / "home/.config/containers"
    own.mkdir(parents=True)
    (own / "policy.json").write_text('{"default": [{"type": "reject"}]}')
    cli.fails(16, "pull", "-q", name)
    cli("pull", "-q", "--insecure-policy", name)


def test_registries_conf_is_obeyed(cli, registry, disk):
    image = wire.Wire(registry.host).put_image("mirrored/a/b", "1", LAYER)
    conf = disk / "registries.conf"
    conf.write_text(
        f'[[registry]]\nlocation = "r.example"\n[[registry.mirror]]\nlocation = "{registry.host}/mirrored"\n'
        '[[registry]]\nlocation = "bad.example"\nblocked = true\n[aliases]\n"short" = "r.example/a/b"\n'
    )
    cli.env["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    assert cli("pull", "-q", "--json", "short:1").json == [
        {
            "kind": "image",
            "id": digest_of(next(iter(image.blobs.values()))),
            "digest": image.digest,
            "names": ["r.example/a/b:1"],
        }
    ]
    assert "registries.conf blocks it" in cli.fails(16, "pull", "-q", "bad.example/x")


def test_progress_tells_bytes_of_each_blob(cli, registry):
    image = wire.Wire(registry.host).put_image("a/b", "1", LAYER)
    done = cli("--progress", "json", "pull", f"{registry.host}/a/b:1")
    events = [json.loads(line) for line in done.err.splitlines()]
    starts = {event["key"]: event for event in events if event["event"] == "start"}
    assert set(starts) == {digest[7:19] for digest in image.blobs}
    assert {event["action"] for event in starts.values()} == {"downloading"}
    sizes = {digest[7:19]: len(data) for digest, data in image.blobs.items()}
    assert {event["key"]: event["done"] for event in events if event["event"] == "done"} == sizes
    done = cli("--progress", "json", "push", f"{registry.host}/a/b:1", f"{registry.host}/c/d:1")
    assert {json.loads(line).get("action") for line in done.err.splitlines()} == {"uploading", None}


def test_tls_is_verified_unless_it_is_said_not_to_be(cli, tls_registry, disk):
    host = tls_registry.host
    assert "its certificate" in cli.fails(18, "tags", f"{host}/a/b")
    assert "manifest" not in cli.fails(10, "tags", "--tls-verify=false", f"{host}/a/b")
    place = disk / "certs" / host
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(tls_registry.authority.read_bytes())
    cli.fails(10, "tags", "--cert-dir", disk / "certs", f"{host}/a/b")


def test_a_command_gives_up_after_the_time_that_it_has(cli):
    released = threading.Event()

    def silent(asked):
        released.wait()
        return Reply(404)

    with scripted(silent) as server:
        message = cli.fails(18, "pull", "-q", "--timeout", "0.5", f"{server.host}/a/b:1")
        released.set()
    assert "it took longer than the 0.5 seconds that it may" in message
