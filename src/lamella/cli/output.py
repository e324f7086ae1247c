"""What goes to standard output: lines, tables as docker draws them, JSON documents, bytes; and the words in them."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from lamella.cli import environment
from lamella.errors import printable
from lamella.spec.digest import Digest

_CELL = 10
_GAP = 3
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_UNSAFE = re.compile(r"[\x7f-\x9f\ud800-\udfff\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


# -- writing


def write_text(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(f"{text}\n")


def write_bytes(data: bytes) -> None:
    """Bytes on standard output, after the text before them."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def write_json(document: Any) -> None:
    """One JSON document, indented. Characters that could steer a terminal are escaped."""
    write_text(escape_steering(json.dumps(document, ensure_ascii=False, indent=2)))


def escape_steering(text: str) -> str:
    """JSON with escapes in place of the characters that could steer a terminal."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, cell: int = _CELL) -> None:
    """A table with docker's spacing: cells of at least ``cell`` characters, three spaces between columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(cell, _GAP + max(len(line[column]) for line in lines)) for column in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        write_text("".join([*cells[:-1], line[-1]]).rstrip())


def write_names(names: Iterable[bytes], *, null: bool) -> None:
    """Paths, one a line and printable, or as they are with a NUL behind each."""
    for name in names:
        if null:
            write_bytes(name + b"\0")
        else:
            write_text(printable(name))


# -- words


def clean(text: str) -> str:
    """``text`` on one line and without anything that steers a terminal."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if character in "\n\t\r":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shorten(text: str, width: int) -> str:
    """``text`` cleaned and cut to ``width`` characters, the last of which then is an ellipsis."""
    text = clean(text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def human_size(size: float) -> str:
    """Bytes as docker shows them: three digits, powers of a thousand."""
    for unit in _UNITS:
        text = f"{size:.3g}"
        if "e" not in text and float(text) < 1000:
            return f"{text}{unit}"
        size /= 1000
    return f"{size:.0f}ZB"


_STEPS = ((60, 1, "second"), (3600, 60, "minute"), (48 * 3600, 3600, "hour"), (14 * 86400, 86400, "day"),
          (60 * 86400, 7 * 86400, "week"), (730 * 86400, 30 * 86400, "month"))  # fmt: skip


def human_age(moment: datetime | None) -> str:
    """How long ago, in docker's words."""
    if moment is None:
        return "N/A"
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    if seconds < 1:
        return "Less than a second ago"
    if 60 <= seconds < 120:
        return "About a minute ago"
    if 3600 <= seconds < 5400:
        return "About an hour ago"
    for limit, length, word in _STEPS:
        if seconds < limit:
            count = round(seconds / length) if word == "hour" else seconds // length
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return f"{seconds // (365 * 86400)} years ago"


def show_id(digest: Digest, *, full: bool) -> str:
    """An id: twelve digits, or all of it with its algorithm."""
    return str(digest) if full else digest.short


def path_fields(path: bytes) -> dict[str, str]:
    """A path inside an image in JSON: ``path``, and ``path_base64`` with the bytes where they are not UTF-8."""
    text = "/" + path.decode("utf-8", "backslashreplace")
    try:
        path.decode()
    except UnicodeDecodeError:
        return {"path": text, "path_base64": base64.b64encode(b"/" + path).decode()}
    return {"path": text}


def paint(text: str, code: str) -> str:
    """``text`` in a colour (an SGR code), where standard output is a terminal that wants it."""
    if sys.stdout.isatty() and environment.wants_colour():
        return f"\x1b[{code}m{text}\x1b[0m"
    return text
