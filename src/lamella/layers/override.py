"""What a caller without root cannot give a file, kept beside it.

Without root a file cannot be given away, and a device cannot be made. Such a file is written as the caller's own, and
what it should be is kept in ``user.lamella.stat`` (``uid:gid:mode:kind:major:minor``, mode and kind octal). The xattr
travels when a union copies the file up, so reading the branch gives back the owners that the image has.
"""

from __future__ import annotations

import msgspec

from lamella.layers.entry import Entry, Kind
from lamella.layers.xattrs import with_mode

OVERRIDE_XATTR = b"user.lamella.stat"
_OURS = b"user.lamella."
_ESCAPED = b"user.lamella.image."


def escape(name: bytes) -> bytes:
    """The name to keep an image's own xattr under, so that it is not taken for ours."""
    return _ESCAPED + name[len(_OURS) :] if name.startswith(_OURS) else name


def unescape(name: bytes) -> bytes:
    """The inverse of ``escape``."""
    return _OURS + name[len(_ESCAPED) :] if name.startswith(_ESCAPED) else name


def override_of(entry: Entry) -> bytes:
    """The xattr's value for ``entry``."""
    return b"%d:%d:%o:%o:%d:%d" % (entry.uid, entry.gid, entry.mode, entry.kind, entry.major, entry.minor)


def written_mode(entry: Entry) -> int:
    """The permission bits with which the file is written: the owner, who is not root, must be able to read it."""
    return entry.mode | (0o700 if entry.kind == Kind.DIRECTORY else 0o600)


def needs_override(entry: Entry) -> bool:
    """Whether the caller cannot make the file as it is."""
    return (
        bool(entry.uid or entry.gid) or entry.mode != written_mode(entry) or entry.kind in (Kind.CHARDEV, Kind.BLOCKDEV)
    )


def as_user(entry: Entry) -> Entry:
    """The entry as a caller without root writes it, who counts as owner 0; links and fifos lose their owners."""
    if entry.kind == Kind.SYMLINK:
        return msgspec.structs.replace(entry, uid=0, gid=0) if entry.uid or entry.gid else entry
    marked = entry.kind != Kind.FIFO and needs_override(entry)
    if not marked and not entry.xattrs and not entry.uid and not entry.gid and entry.mode == written_mode(entry):
        return entry
    mode = written_mode(entry)
    xattrs = {escape(name): with_mode(name, value, mode) for name, value in entry.xattrs.items()}
    if marked:
        xattrs[OVERRIDE_XATTR] = override_of(entry)
    kind = Kind.REGULAR if entry.kind in (Kind.CHARDEV, Kind.BLOCKDEV) else entry.kind
    size = entry.size if entry.kind == Kind.REGULAR else 0
    return msgspec.structs.replace(
        entry, kind=kind, mode=mode, uid=0, gid=0, size=size, major=0, minor=0, xattrs=xattrs
    )


def restore(found: Entry, value: bytes) -> Entry:
    """The entry as the image has it, from what was found on disk.

    What was changed since wins: another mode, or another owner, is kept as found. A value that is not ours is ignored.
    """
    try:
        uid, gid, mode, kind, major, minor = (int(p, 8 if i in (2, 3) else 10) for i, p in enumerate(value.split(b":")))
        kind = Kind(kind)
    except ValueError:
        return found
    if found.uid or found.gid:
        uid, gid = found.uid, found.gid
    told = Entry(found.path, kind, mode)
    if found.mode != written_mode(told):
        mode = found.mode
    same_kind = kind == found.kind or (found.kind == Kind.REGULAR and not found.size)
    if not same_kind:
        kind, major, minor = found.kind, found.major, found.minor
    return msgspec.structs.replace(found, uid=uid, gid=gid, mode=mode, kind=kind, major=major, minor=minor)
