"""Extended attributes of an image where they are written: under which names, and which no file system shows."""

from __future__ import annotations

import struct

from lamella.layers.entry import Entry, Kind
from lamella.mounts.model import Form

_NAME_MAX = 255
_VALUE_MAX = 1 << 16
_ESCAPED: dict[Form, tuple[bytes, ...]] = {
    Form.OVERLAY: (b"trusted.overlay.",),
    Form.OVERLAY_USER: (b"user.overlay.", b"user.fuseoverlayfs.", b"trusted.overlay."),
    Form.AUFS: (),
    Form.PLAIN: (),
}
_SPACES = (b"user.", b"trusted.", b"security.")
_ACL_ACCESS, _ACL_DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_CAPABILITY_SIZES = {1: 12, 2: 20, 3: 24}
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


def written_name(name: bytes, form: Form) -> bytes:
    """The name to write an image's xattr under, in a tree of ``form``.

    Raw, some would steer the union above; escaped like this the kernel (6.7) shows them as what they are.
    """
    for prefix in _ESCAPED[form]:
        if name.startswith(prefix):
            return prefix + b"overlay." + name[len(prefix) :]
    return name


def not_shown(entry: Entry, name: bytes, value: bytes) -> str:
    """Why Linux would not let anybody set this xattr on this file, and so cannot read it back; empty if it would."""
    if len(name) > _NAME_MAX:
        return "its name is over 255 bytes"
    if len(value) > _VALUE_MAX:
        return "it is over 64 KiB"
    if name in (_ACL_ACCESS, _ACL_DEFAULT):
        fits = entry.kind == Kind.DIRECTORY or (name == _ACL_ACCESS and entry.kind != Kind.SYMLINK)
        return "" if fits and _is_acl(value) else "it is no ACL that this file can have"
    if not any(name.startswith(space) and len(name) > len(space) for space in _SPACES):
        return "Linux has no such namespace"
    if name.startswith(b"user.") and entry.kind not in (Kind.REGULAR, Kind.DIRECTORY):
        return "only files and directories have user xattrs"
    if name == b"security.capability" and not _is_capability(value):
        return "it is no capability"
    return ""


def is_users(name: bytes) -> bool:
    """Whether the owner of a file may give it this xattr without root."""
    return name.startswith(b"user.") or name in (_ACL_ACCESS, _ACL_DEFAULT)


def with_mode(name: bytes, value: bytes, mode: int) -> bytes:
    """The value of an xattr of a file that is given the permissions ``mode``: an ACL holds them too (acl(5))."""
    if name != _ACL_ACCESS or not _is_acl(value):
        return value
    entries = list(_ACL_ENTRY.iter_unpack(value[4:]))
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    given = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return value[:4] + b"".join(_ACL_ENTRY.pack(tag, given.get(tag, old), id) for tag, old, id in entries)


def _is_capability(value: bytes) -> bool:
    """Whether it is a struct vfs_cap_data of a revision that the kernel knows (capabilities(7))."""
    return len(value) > 3 and _CAPABILITY_SIZES.get(value[3]) == len(value)


def _is_acl(value: bytes) -> bool:
    """Whether it is an ACL to the kernel (posix_acl_from_xattr, posix_acl_valid): anything else fails on reading."""
    if len(value) < 4 or value[:4] != b"\x02\0\0\0" or len(value) % _ACL_ENTRY.size != 4:
        return False
    tags = []
    for tag, permissions, _ in _ACL_ENTRY.iter_unpack(value[4:]):
        if permissions > 7:
            return False
        tags.append(tag)
    needed = {_USER_OBJ, _GROUP_OBJ, _OTHER} | ({_MASK} if _USER in tags or _GROUP in tags else set())
    single = [tag for tag in tags if tag not in (_USER, _GROUP)]
    known = {_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER}
    return tags == sorted(tags) and len(single) == len(set(single)) and needed <= set(tags) <= known
