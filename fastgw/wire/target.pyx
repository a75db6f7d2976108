"""What a request may ask for, and of whom: the paths and the hosts that are accepted.

Both are stricter than RFC 3986: what two readers could understand differently is refused. What is
checked is a part of a head: the byte behind it can be read, and is none that could belong to it.
"""

from libc.stdint cimport uint8_t

from ..errors import ProtocolError

cdef uint8_t HOSTCHAR[256]   # 1: allowed in a host's name
cdef uint8_t PLAINCHAR[256]  # 1: allowed in a path, and never the end of a segment or an encoding


cdef void _fill_tables() noexcept:
    cdef int c
    for c in range(256):
        HOSTCHAR[c] = 0
        PLAINCHAR[c] = 0 if c <= 0x20 or c == c"%" or c == c"/" or c == c"?" else 1
    for c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._":
        HOSTCHAR[c] = 1


_fill_tables()


cdef int check_host(const uint8_t *value, Py_ssize_t length) except -1:
    """A name or an IPv4 address, or an IPv6 address in brackets; behind it maybe a port.

    Stricter than RFC 3986 allows a host to be: what no name in use has is refused.
    """
    cdef Py_ssize_t at = 0, least = 1
    cdef long long port = 1
    if length > 255:
        raise ProtocolError("a Host that is too long")
    if length and value[0] == c"[":
        least = 4
        at = 1
        while at < length and (hex_digit(value[at]) >= 0 or value[at] == c":" or value[at] == c"."):
            at += 1
        at = at + 1 if at < length and value[at] == c"]" else 0
    else:
        while HOSTCHAR[value[at]]:
            at += 1
    if at < length:
        port = digits(value + at + 1, length - at - 1) if value[at] == c":" and length - at <= 6 else 0
    if at < least or not 0 < port < 65536:
        raise ProtocolError("a Host that is not valid")
    return 0


cdef int check_path(const uint8_t *path, Py_ssize_t length) except -1:
    """Refuse every spelling that a node could read as another path than the one routed by."""
    cdef Py_ssize_t i = 0, segment = 1
    cdef int high, low, code
    while True:
        while PLAINCHAR[path[i]]:
            i += 1
        if i >= length:
            break
        if path[i] == c"%":
            high = hex_digit(path[i + 1]) if i + 2 < length else -1
            low = hex_digit(path[i + 2]) if i + 2 < length else -1
            if high < 0 or low < 0:
                raise ProtocolError("a path with a broken percent-encoding")
            code = high * 16 + low
            if (
                code < 0x20 or code == 0x7F or code == c"/" or code == c"\\" or code == c"."
                or code == 0xC0 or code == 0xC1  # in no UTF-8, but for "/" and "." in two bytes
            ):
                raise ProtocolError("a path with an encoded character that is not allowed")
        elif path[i] == c"/" and i > 0:
            _check_segment(path + segment, i - segment, False)
            segment = i + 1
        i += 1
    _check_segment(path + segment, length - segment, True)
    return 0


cdef int _check_segment(const uint8_t *segment, Py_ssize_t length, bint is_last) except -1:
    cdef Py_ssize_t dots = 0
    if length == 0 and not is_last:
        raise ProtocolError("a path with an empty segment")
    while dots < length and segment[dots] == c".":
        dots += 1
    # Some servers cut a segment's parameters off before they resolve it: "..;x".
    if (dots == 1 or dots == 2) and (dots == length or segment[dots] == c";"):
        raise ProtocolError("a path with dot segments")
    return 0
