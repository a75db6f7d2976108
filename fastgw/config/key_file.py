"""Files that hold one key: read once, with a bound, and only if no one else may read them."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final

MAX_BYTES: Final = 64 * 1024
EXPOSED: Final = "others on this machine may read this file"
EXPOSED_HINT: Final = "chmod 600; --insecure-key-file takes it as it is"

# POSIX access control lists as Linux keeps them: a version, then (tag, permissions, id) of each entry.
_ACL: Final = "system.posix_acl_access"
_ACL_ENTRY: Final = struct.Struct("<HHI")
_OWNING_GROUP, _NAMED_GROUP, _MASK = 0x04, 0x08, 0x10
_READ: Final = 4


class BadKeyFile(Exception):
    """No key can be had from a file: (message, hint)."""


def read(file: str | os.PathLike[str], *, allows_exposed: bool = False) -> str:
    """The text of a file without its last line break.

    Args:
        allows_exposed: take it although its group or others may read it.
    Raises:
        BadKeyFile: it cannot be read, is none or too large, or others may read it, too.
    """
    try:
        # Non-blocking: opening a pipe would wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadKeyFile("not a regular file", "a value is read from a file")
            if not allows_exposed and is_exposed(descriptor):
                raise BadKeyFile(EXPOSED, EXPOSED_HINT)
            with open(descriptor, "rb", closefd=False) as stream:
                data = stream.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadKeyFile(f"the file cannot be read: {error.strerror or 'unknown error'}", "") from None
    except ValueError:
        raise BadKeyFile("the file's name is not valid", "") from None
    if len(data) > MAX_BYTES:
        raise BadKeyFile(f"the file is larger than {MAX_BYTES} bytes", "")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise BadKeyFile("the file is not text in UTF-8", "") from None


def is_exposed(file: int | str) -> bool:
    """May the group of a file, or others, read it? Users that its access control list names may.

    systemd lets a service read its credentials by such a list, and then the mode's bits of the group
    mean something else: the most that the list gives to anybody.
    """
    mode = os.stat(file).st_mode
    if not mode & stat.S_IRGRP or mode & stat.S_IROTH:
        return bool(mode & (stat.S_IRGRP | stat.S_IROTH))
    try:
        acl = os.getxattr(file, _ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return True  # there is no list: the bits are the group's
        raise
    entries = list(_ACL_ENTRY.iter_unpack(acl[4:]))
    allowed = next((permissions for tag, permissions, _ in entries if tag == _MASK), 7)
    return any(
        permissions & allowed & _READ
        for tag, permissions, _ in entries
        if tag in (_OWNING_GROUP, _NAMED_GROUP)
    )
