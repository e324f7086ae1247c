"""``lamella ls``."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import path_fields, write_json, write_names, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import LamellaError, printable

if TYPE_CHECKING:
    from lamella.layers.view import FileInfo, TreeView


@click.command("ls")
@click.argument("name", metavar="IMAGE|SNAPSHOT", shell_complete=arguments.complete_any)
@click.argument("path", metavar="[PATH]", default=b"/", type=arguments.InnerPath())
@click.option("-l", "--long", is_flag=True, help="Show type, mode, links, owner, size and time (UTC).")
@click.option("-R", "--recursive", is_flag=True, help="Show everything below PATH, with whole paths.")
@click.option("-d", "--directory", is_flag=True, help="Show PATH itself and not what is in it.")
@click.option("-0", "--null", is_flag=True, help="Print names as they are, with a NUL behind each.")
@arguments.json_option
@arguments.platform_option
@pass_session
def command(
    here: Session,
    name: str,
    path: bytes,
    long: bool,
    recursive: bool,
    directory: bool,
    null: bool,
    as_json: bool,
    platform: str | None,
) -> None:
    """List files of an image or a snapshot.

    Nothing is mounted or extracted. Names that are not UTF-8, or that would steer a terminal, are shown with escapes.
    """
    if null and long:
        raise click.UsageError("--null prints names only")
    with here.store() as store, lookup.files(store, name, platform) as files:
        inside = not recursive and not directory and _is_directory(files, path)
        if inside:
            found = files.listdir(path)
        else:
            found = list(files.walk(path)) if recursive else [files.stat(path, follow=False)]
        if as_json:
            write_json([_document(item) for item in found])
        elif long:
            _long(found, whole=not inside)
        else:
            write_names((_shown(item, whole=not inside) for item in found), null=null)


def _is_directory(files: TreeView, path: bytes) -> bool:
    """Whether ``path`` leads to a directory; a link that leads nowhere is listed itself."""
    try:
        return files.stat(path).is_dir
    except LamellaError:
        files.stat(path, follow=False)
        return False


def _shown(item: FileInfo, *, whole: bool) -> bytes:
    return b"/" + item.path if whole else item.path.rpartition(b"/")[2]


def _long(found: Iterable[FileInfo], *, whole: bool) -> None:
    rows = []
    for item in found:
        size = f"{item.major}, {item.minor}" if _is_device(item) else str(item.size)
        shown = printable(_shown(item, whole=whole))
        if stat.S_ISLNK(item.st_mode):
            shown += f" -> {printable(item.link)}"
        owner = f"{item.uid}:{item.gid}"
        rows.append((stat.filemode(item.st_mode), str(item.links), owner, size, _time(item.mtime), shown))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for mode, links, owner, size, time, shown in rows:
        write_text(f"{mode} {links:>{widths[1]}} {owner:<{widths[2]}} {size:>{widths[3]}} {time} {shown}")


def _is_device(item: FileInfo) -> bool:
    return stat.S_ISCHR(item.st_mode) or stat.S_ISBLK(item.st_mode)


def _time(mtime: int) -> str:
    """A time (ns) to the minute in UTC; seconds since 1970 where no calendar reaches."""
    try:
        return datetime.fromtimestamp(mtime // 10**9, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"@{mtime // 10**9}"


def _document(item: FileInfo) -> dict[str, Any]:
    import base64

    document: dict[str, Any] = {
        **path_fields(item.path),
        "type": item.kind.name.lower(),
        "mode": f"{item.mode:04o}",
        "uid": item.uid,
        "gid": item.gid,
        "size": item.size,
        "mtime_ns": item.mtime,
        "links": item.links,
        "layer": item.layer,
    }
    if stat.S_ISLNK(item.st_mode):
        document["target"] = item.link.decode("utf-8", "backslashreplace")
    if _is_device(item):
        document["device"] = [item.major, item.minor]
    if item.digest is not None:
        document["digest"] = str(item.digest)
    if item.xattrs:
        document["xattrs"] = {
            name.decode("utf-8", "backslashreplace"): base64.b64encode(value).decode()
            for name, value in sorted(item.xattrs.items())
        }
    return document
