"""The registries that other tests use are what they say: skopeo writes to each and reads the same back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import layouts, registries
from support.needs import needs_tool
from support.peers import run, skopeo_inspect

pytestmark = needs_tool("docker-registry", "skopeo", "htpasswd", "openssl")


def layout(place: Path) -> Path:
    """A small real image as a layout."""
    return layouts.real("busybox/musl", place)


@pytest.mark.parametrize("name", ["registry", "users_registry", "token_registry", "tls_registry"])
def test_skopeo_reads_what_skopeo_wrote(name, request, tmp_path):
    registry = request.getfixturevalue(name)
    source = layout(tmp_path / "image")
    target = f"docker://{registry.host}/some/image:tag"
    run("skopeo", "copy", "--all", *registry.skopeo_options("dest"), f"oci:{source}", target)
    inspected = skopeo_inspect(target, "--raw", *registry.skopeo_options())
    assert "schemaVersion" in inspected


def test_a_registry_with_users_refuses_others(users_registry):
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{users_registry.host}/some/image"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "authentication required" in done.stderr or "unauthorized" in done.stderr


def test_the_token_server_tells_what_it_was_asked(token_registry, tmp_path):
    target = f"docker://{token_registry.host}/some/image:tag"
    run("skopeo", "copy", "--all", *token_registry.skopeo_options("dest"), f"oci:{layout(tmp_path / 'image')}", target)
    asked = token_registry.tokens.asked
    assert {request.user for request in asked if request.status == 200} >= {registries.USER}
    assert any("repository:some/image:pull,push" in request.scopes for request in asked)


def test_no_registry_outlives_a_killed_test(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from support import registries\n"
        "with registries.docker_registry(Path(sys.argv[1])) as r:\n"
        "    print(r.server.process.pid, flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "registry"], stdout=subprocess.PIPE, env=environment
    ) as started:
        pid = int(started.stdout.readline())
        started.send_signal(signal.SIGKILL)
    for _ in range(1000):
        if not Path(f"/proc/{pid}").exists() or b"registry" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        time.sleep(0.02)
    pytest.fail("the registry still runs")
