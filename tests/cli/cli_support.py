"""Running the command as users do: a process of its own, on a store of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lamella

EPOCH = 1_700_000_000


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    """``lamella --root STORE``. ``env`` is the whole environment but for what Python needs; ``user`` is who runs it.

    ``python`` need not be this one: a user may not reach that.
    """

    root: Path
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    python: str = sys.executable

    def command(self, *arguments: object) -> list[str | bytes]:
        words = [a if isinstance(a, bytes) else str(a) for a in arguments]
        return [self.python, "-m", "lamella", "--root", str(self.root), *words]

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ}
        if self.python != sys.executable:
            packages = [path for path in sys.path if path.endswith("-packages")]
            kept["PYTHONPATH"] = os.pathsep.join([str(Path(lamella.__file__).parents[1]), *packages])
        return {**kept, "LC_ALL": "C.UTF-8", **self.env}

    def identity(self) -> dict[str, Any]:
        """What subprocess is to be told to run something as the user."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    def works(self) -> bool:
        """Whether the user may run this Python at all, with what the command needs."""
        command = [self.python, "-c", "import lamella.errors, msgspec"]
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, cwd="/", env=self.environment(), **self.identity()
            )
        except PermissionError:
            return False
        return done.returncode == 0

    def __call__(self, *arguments: object, code: int = 0, stdin: bytes | None = None, quiet: bool = False) -> Result:
        """Run to the end; the exit code must be ``code``. ``quiet`` also demands that nothing else is said."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            cwd=self.cwd,
            env=self.environment(),
            check=False,
            timeout=120,
            **self.identity(),
        )
        result = Result(done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace"))
        assert result.code == code, f"{arguments}: exit {result.code}\n{result.text}\n{result.err}"
        assert "Traceback" not in result.err
        if quiet:
            assert not result.err
        return result

    def fails(self, code: int, *arguments: object, stdin: bytes | None = None) -> str:
        """Run what must fail with ``code`` and print nothing; gives its one line, without ``lamella: ``."""
        result = self(*arguments, code=code, stdin=stdin)
        assert result.out == b""
        lines = [line for line in result.err.splitlines() if line.startswith("lamella: ")]
        assert len(lines) == 1, result.err
        return lines[0].removeprefix("lamella: ")

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """Start it and leave it running."""
        return subprocess.Popen(self.command(*arguments), cwd=self.cwd, env=self.environment(), **options)


def tar_of(entries: dict[str | bytes, object]) -> bytes:
    """A tar of a root file system: a path to bytes (a file), None (a directory), or a TarInfo with what is special."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for path, content in entries.items():
            name = os.fsdecode(path)
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                content.mtime = content.mtime or EPOCH
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.mtime = EPOCH
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                assert isinstance(content, bytes)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def special(kind: bytes, **fields: Any) -> tarfile.TarInfo:
    """A member that is no plain file."""
    info = tarfile.TarInfo("x")
    info.type = kind
    info.mode = 0o777 if kind == tarfile.SYMTYPE else 0o644
    for name, value in fields.items():
        setattr(info, name, value)
    return info


BASE: dict[str | bytes, object] = {
    "etc": None,
    "etc/os-release": b"ID=base\n",
    "etc/motd": b"welcome\n",
    "etc/hostname": b"base\n",
    "bin": None,
    "bin/tool": special(tarfile.REGTYPE, mode=0o755),
    "bin/alias": special(tarfile.SYMTYPE, linkname="tool"),
    "bin/same": special(tarfile.LNKTYPE, linkname="bin/tool"),
    "var": None,
    "var/log": None,
    "var/log/old": b"x" * 5000,
    "tmp": special(tarfile.DIRTYPE, mode=0o1777),
    "home": special(tarfile.SYMTYPE, linkname="/var"),
    b"var/caf\xe9": b"latin\n",
}
"""A small root file system with one of everything."""
