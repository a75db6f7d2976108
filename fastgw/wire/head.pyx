"""HTTP/1.1 heads and body framing over raw bytes: scan, validate, write.

httptools validates the same bytes; where the two do not agree on a message's boundary, the
connection is refused. Heads are never passed on: each is written anew, field by field.

Source: RFC 9110 (fields, Host, Connection), RFC 9112 (message syntax, chunked coding).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from ..errors import BadResponse, ProtocolError
from .target cimport check_host, check_path, digits

cdef enum:
    SHARED_BYTES = 2048  # of a body that may stay in memory with its head
    MAX_NAME_BYTES = 256  # of one field's name
    MAX_METHOD_BYTES = 32
    MAX_FILTER_NAMES = 255

# --- Character classes ------------------------------------------------------------------------

# (Those that the .pxd declares: TCHAR, the lower-case letter of a token character, else 0, as in
# RFC 9110, 5.6.2; VCHAR, 1 for what is allowed in a field value.)
cdef uint8_t TARGET[256]    # 1: allowed in a request target


cdef void _fill_tables() noexcept:
    cdef int c
    for c in range(256):
        TCHAR[c] = 0
        VCHAR[c] = 1 if (c >= 0x20 and c != 0x7F) or c == 0x09 else 0
        TARGET[c] = 1 if 0x21 <= c <= 0x7E else 0
    for c in range(ord("a"), ord("z") + 1):
        TCHAR[c] = c
        TCHAR[c - 32] = c
    for c in range(ord("0"), ord("9") + 1):
        TCHAR[c] = c
    for c in b"!#$%&'*+-.^_`|~":
        TCHAR[c] = c
    for c in b"\"<>\\^`{|}#":
        TARGET[c] = 0


_fill_tables()


cdef inline bint same(
    const uint8_t *text, Py_ssize_t length, const char *lower, Py_ssize_t lower_len
) noexcept:
    """Whether text is the token ``lower``, letter case aside."""
    cdef Py_ssize_t i
    if length != lower_len:
        return False
    for i in range(length):
        if TCHAR[text[i]] != <uint8_t>lower[i]:
            return False
    return True


cdef inline Py_ssize_t value_end(const uint8_t *raw, Py_ssize_t at, Py_ssize_t end) noexcept:
    """The offset of the first byte that a field value cannot hold; there is one before ``end``.

    Eight bytes at a time while none of them is below a space or DEL (a tab is left to the table).
    """
    cdef uint64_t word, flipped
    while at + 8 <= end:
        memcpy(&word, raw + at, 8)
        flipped = word ^ 0x7F7F7F7F7F7F7F7FULL
        if (
            ((word - 0x2020202020202020ULL) & ~word) | ((flipped - 0x0101010101010101ULL) & ~flipped)
        ) & 0x8080808080808080ULL:
            break
        at += 8
    while VCHAR[raw[at]]:
        at += 1
    return at


# --- Limits and filters -----------------------------------------------------------------------


cdef class Limits:
    """Bounds of one head: its first line, the whole of it (bytes), and its number of fields."""

    def __init__(self, line_bytes=16 * 1024, head_bytes=32 * 1024, fields=100):
        self.line_bytes = line_bytes
        self.head_bytes = head_bytes
        self.fields = fields


cdef class FieldFilter:
    """A set of field names; a name that ends in ``*`` is a prefix. At most 255 names.

    Names are grouped by length: the usual answer (no) costs one comparison or none.
    """

    def __init__(self, names):
        cdef Py_ssize_t length, position = 0
        wanted = {n.lower() for n in names}
        self.names = frozenset(wanted)
        self._prefixes = sorted(n.removesuffix(b"*") for n in wanted if n.endswith(b"*"))
        exact = sorted((n for n in wanted if not n.endswith(b"*")), key=lambda n: (len(n), n))
        if len(exact) > MAX_FILTER_NAMES or any(not 1 <= len(n) <= MAX_NAME_BYTES for n in exact):
            raise ValueError("a filter holds at most 255 names of 1 to 256 bytes")
        for length in range(MAX_NAME_BYTES + 1):
            self._first[length] = 0
            self._count[length] = 0
        for index, name in enumerate(exact):
            if self._count[len(name)] == 0:
                self._first[len(name)] = index
            self._count[len(name)] += 1
            self._offset[index] = position
            position += len(name)
        self._names = b"".join(exact)
        self._size = len(exact)

    cdef bint matches(self, const uint8_t *name, Py_ssize_t length) noexcept:
        cdef Py_ssize_t i
        cdef const char *names = PyBytes_AS_STRING(self._names)
        if length <= MAX_NAME_BYTES:
            for i in range(self._first[length], self._first[length] + self._count[length]):
                if same(name, length, names + self._offset[i], length):
                    return True
        if self._prefixes:
            for i in range(len(self._prefixes)):
                prefix = <bytes>self._prefixes[i]
                if length >= PyBytes_GET_SIZE(prefix) and same(
                    name, PyBytes_GET_SIZE(prefix), PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix)
                ):
                    return True
        return False

    def __contains__(self, bytes name not None):
        return self.matches(<const uint8_t *>PyBytes_AS_STRING(name), len(name))


# --- Heads ------------------------------------------------------------------------------------


cdef class Head:
    """The fields of one validated head, as offsets into ``raw``, of which it is the first ``size`` bytes.

    ``end`` is the offset in the scanned data where the body begins. ``content_length`` is -1
    when there is none.
    """

    def __cinit__(self):
        self.fields = self.inline_fields
        self.capacity = INLINE_FIELDS
        self.content_length = -1

    def __dealloc__(self):
        if self.fields != self.inline_fields:
            PyMem_Free(self.fields)

    cdef int _grow(self) except -1:
        """Make room for twice as many fields."""
        cdef field_t *grown = <field_t *>PyMem_Malloc(2 * self.capacity * sizeof(field_t))
        if grown == NULL:
            raise MemoryError
        memcpy(grown, self.fields, self.capacity * sizeof(field_t))
        if self.fields != self.inline_fields:
            PyMem_Free(self.fields)
        self.fields = grown
        self.capacity *= 2
        return 0

    cdef Py_ssize_t _find(self, const char *name, Py_ssize_t length) noexcept:
        cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(self.raw)
        cdef Py_ssize_t i
        for i in range(self.field_count):
            if same(raw + self.fields[i].name, self.fields[i].name_len, name, length):
                return i
        return -1

    cpdef bytes get(self, bytes name):
        """The value of the first field called ``name`` (lower case), or None."""
        cdef Py_ssize_t i = self._find(PyBytes_AS_STRING(name), len(name))
        if i < 0:
            return None
        return part(self.raw, self.fields[i].value, self.fields[i].value + self.fields[i].value_len)

    cpdef bint names(self, bytes name):
        """Is there a field called ``name`` (lower case)?"""
        return self._find(PyBytes_AS_STRING(name), len(name)) >= 0

    def items(self):
        """All fields as (lower-case name, value), in order."""
        return [
            (
                self.raw[self.fields[i].name : self.fields[i].name + self.fields[i].name_len].lower(),
                self.raw[self.fields[i].value : self.fields[i].value + self.fields[i].value_len],
            )
            for i in range(self.field_count)
        ]


cdef class RequestHead(Head):
    """One request. ``path`` is the target without its query."""

    def __repr__(self):
        return f"<RequestHead {self.method.decode()} {self.path.decode()}>"


cdef class ResponseHead(Head):
    """One response's status and fields."""

    def __repr__(self):
        return f"<ResponseHead {self.status}>"

    def mask(self, masked):
        """Show what ``masked`` makes of each line in its place; no line may change its length."""
        cdef bytes raw
        lines = self.raw.split(b"\r\n")  # one by one: no end of a line can be lost
        shown = [masked(line) for line in lines]
        if list(map(len, shown)) != list(map(len, lines)):
            raise ValueError("a masked line has another length")
        raw = b"\r\n".join(shown)
        self.raw = raw


cdef object _bad(bint is_request, str message, int status=400, str code="bad_request"):
    if is_request:
        return ProtocolError(message, status, code)
    return BadResponse(message)


cdef int _scan_fields(Head head, Py_ssize_t at, Py_ssize_t end, Py_ssize_t most, bint is_request) except -1:
    """Validate every field line in raw[at:end] and note where it lies.

    ``end`` is just behind the CRLF of the last field line.
    """
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    cdef Py_ssize_t start, stop, value, tail
    cdef field_t *field
    while at < end:
        start = at
        while TCHAR[raw[at]]:
            at += 1
        if raw[at] != c":" or at == start:
            if at == start and (raw[at] == c" " or raw[at] == c"\t"):
                raise _bad(is_request, "a folded header field")
            raise _bad(is_request, "a header field name has a character that is not allowed")
        stop = at
        at += 1
        while raw[at] == c" " or raw[at] == c"\t":
            at += 1
        value = at
        at = value_end(raw, at, end)
        if raw[at] != c"\r" or raw[at + 1] != c"\n":
            raise _bad(is_request, "a header field value has a character that is not allowed")
        tail = at
        while tail > value and (raw[tail - 1] == c" " or raw[tail - 1] == c"\t"):
            tail -= 1
        at += 2
        if head.field_count >= most:
            raise _bad(is_request, "too many header fields", 431, "header_too_large")
        if stop - start > MAX_NAME_BYTES:
            raise _bad(is_request, "a header field name is too long", 431, "header_too_large")
        if head.field_count == head.capacity:
            head._grow()
        field = &head.fields[head.field_count]
        head.field_count += 1
        field.name = <uint32_t>start
        field.name_len = <uint16_t>(stop - start)
        field.value = <uint32_t>value
        field.value_len = <uint32_t>(tail - value)
        field.drop = 0
        field.is_plain = value - stop == 2 and raw[stop + 1] == c" " and tail + 2 == at
    return 0


cdef int _connection_tokens(
    Head head, const uint8_t *value, Py_ssize_t length, int *close, int *keep
) except -1:
    """Read one Connection field: the fields it names are not for the next hop."""
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    cdef Py_ssize_t at = 0, start, size, i
    while at < length:
        while at < length and (value[at] == c" " or value[at] == c"\t" or value[at] == c","):
            at += 1
        start = at
        while at < length and TCHAR[value[at]]:
            at += 1
        size = at - start
        while at < length and (value[at] == c" " or value[at] == c"\t"):
            at += 1
        if at < length and value[at] != c",":
            raise _bad(isinstance(head, RequestHead), "a Connection field that is no list of tokens")
        if size == 0:
            continue
        if same(value + start, size, "close", 5):
            close[0] = 1
        elif same(value + start, size, "keep-alive", 10):
            keep[0] = 1
        else:
            for i in range(head.field_count):
                if head.fields[i].name_len == size and _same_text(
                    raw + head.fields[i].name, value + start, size
                ):
                    head.fields[i].drop = 1
    return 0


cdef inline bint _same_text(const uint8_t *a, const uint8_t *b, Py_ssize_t length) noexcept:
    cdef Py_ssize_t i
    for i in range(length):
        if TCHAR[a[i]] != TCHAR[b[i]]:
            return False
    return True


cdef int _framing(Head head, bint is_request) except -1:
    """Read the fields that decide on the message's framing and on the connection."""
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    cdef const uint8_t *name
    cdef const uint8_t *value
    cdef Py_ssize_t i, length, value_len
    cdef int close = 0, keep = 0
    cdef RequestHead request = <RequestHead>head if is_request else None
    cdef bint host_seen = False
    for i in range(head.field_count):
        name = raw + head.fields[i].name
        length = head.fields[i].name_len
        value = raw + head.fields[i].value
        value_len = head.fields[i].value_len
        if length == 4:
            if is_request and same(name, length, "host", 4):
                if host_seen:
                    raise _bad(True, "more than one Host field")
                host_seen = True
                check_host(value, value_len)
                request.host = value[:value_len]
                head.fields[i].drop = 1
        elif length == 14:
            if same(name, length, "content-length", 14):
                if head.content_length >= 0:
                    raise _bad(is_request, "more than one Content-Length field")
                head.content_length = digits(value, value_len)
                if head.content_length < 0:
                    raise _bad(is_request, "a Content-Length that is no number")
                head.fields[i].drop = 1
        elif length == 17:
            if same(name, length, "transfer-encoding", 17):
                if head.is_chunked or not same(value, value_len, "chunked", 7):
                    raise _other_coding(head, is_request)
                head.is_chunked = True
                head.fields[i].drop = 1
        elif length == 10:
            if same(name, length, "connection", 10):
                _connection_tokens(head, value, value_len, &close, &keep)
                head.fields[i].drop = 1
            elif same(name, length, "keep-alive", 10):
                head.fields[i].drop = 1
        elif length == 7:
            if same(name, length, "upgrade", 7):
                if is_request:
                    request.wants_upgrade = True
                head.fields[i].drop = 1
            elif same(name, length, "trailer", 7):
                head.fields[i].drop = 1
        elif length == 6:
            if is_request and same(name, length, "expect", 6):
                if not same(value, value_len, "100-continue", 12):
                    raise _bad(True, "an unknown Expect", 417, "expectation_failed")
                request.expects_continue = head.minor_version == 1
                head.fields[i].drop = 1
        elif length == 12:
            # Whoever passes such an OPTIONS on has to count; answering it here is allowed too.
            if is_request and same(name, length, "max-forwards", 12) and request.method == b"OPTIONS":
                raise _bad(True, "an OPTIONS request with Max-Forwards", 501, "not_implemented")
        elif length == 2 or length == 16 or length == 18 or length == 19:
            if (
                same(name, length, "te", 2) or same(name, length, "proxy-connection", 16)
                or same(name, length, "proxy-authenticate", 18)
                or same(name, length, "proxy-authorization", 19)
            ):
                head.fields[i].drop = 1
    if head.is_chunked:
        if head.content_length >= 0:
            raise _bad(is_request, "both Content-Length and Transfer-Encoding")
        if head.minor_version == 0:
            raise _bad(is_request, "Transfer-Encoding in HTTP/1.0")
    if is_request:
        if not host_seen and head.minor_version == 1:
            raise _bad(True, "no Host field")
        if request.expects_continue and not head.is_chunked and head.content_length <= 0:
            request.expects_continue = False  # there is nothing to continue with
    head.keep_alive = not close and (head.minor_version == 1 or keep)
    return 0


cdef object _other_coding(Head head, bint is_request):
    """The error for Transfer-Encoding fields that are not one that says just ``chunked``.

    Where chunked is the last coding and stands once, the message could be read by one who knew the
    others; in any other order nobody knows where it ends (RFC 9112, 6.1 and 6.3).
    """
    codings = [
        coding.strip(b" \t").lower()
        for name, value in head.items() if name == b"transfer-encoding"
        for coding in value.split(b",")
    ]
    if codings[len(codings) - 1] == b"chunked" and codings.count(b"chunked") == 1:
        return _bad(is_request, "a Transfer-Encoding other than chunked", 501, "not_implemented")
    return _bad(is_request, "a Transfer-Encoding that does not end in chunked")


cdef Py_ssize_t _absolute(RequestHead head, const uint8_t *target, Py_ssize_t length) except -1:
    """Read the scheme and authority of a target in absolute form; returns the offset behind them.

    The authority becomes ``head.host``. A target without a path is rewritten here.
    """
    cdef Py_ssize_t start, at
    if length >= 7 and same(target, 4, "http", 4) and memcmp(target + 4, b"://", 3) == 0:
        start = 7
    elif length >= 8 and same(target, 5, "https", 5) and memcmp(target + 5, b"://", 3) == 0:
        start = 8
    else:
        raise _bad(True, "a request target that is not a path")
    at = start
    while at < length and target[at] != c"/" and target[at] != c"?":
        at += 1
    check_host(target + start, at - start)
    head.host = target[start:at]
    if at == length or target[at] == c"?":
        if head.method == b"OPTIONS":
            raise _bad(True, "a request target that is not a path")
        head.target = b"/" + target[at:length]
        head.path = b"/"
    return at


cdef int _framing_of_absolute(RequestHead head) except -1:
    """``_framing`` where the target names the host too: Host must say the same."""
    cdef bytes authority = head.host
    _framing(head, True)
    if head.host.lower() != authority.lower():
        raise _bad(True, "a Host that is not the request target's")
    return 0


cdef inline int _check_call(Py_ssize_t size, Py_ssize_t start, Limits limits) except -1:
    if limits is None:
        raise TypeError("limits must not be None")
    if start < 0 or start > size:
        raise ValueError("start is not in the data")
    return 0


# The usual methods are one object each: none is made for a request, and ``is`` compares them.
cdef bytes _GET = b"GET"
cdef bytes _POST = b"POST"
cdef bytes _HEAD = b"HEAD"


cdef bytes _method(const uint8_t *text, Py_ssize_t length):
    if length == 4 and memcmp(text, b"POST", 4) == 0:
        return _POST
    if length == 3 and memcmp(text, b"GET", 3) == 0:
        return _GET
    if length == 4 and memcmp(text, b"HEAD", 4) == 0:
        return _HEAD
    return PyBytes_FromStringAndSize(<const char *>text, length)


cdef int _keep_raw(Head head, bytes data, Py_ssize_t start, Py_ssize_t end) except -1:
    """Keep the head's bytes: a copy, unless they begin the data and little stands behind them."""
    head.size = end - start
    if start == 0 and PyBytes_GET_SIZE(data) - end <= SHARED_BYTES:
        head.raw = data
    else:
        head.raw = part(data, start, end)
    return 0


cpdef RequestHead scan_request(bytes data, Py_ssize_t start, Limits limits):
    """Scan the request head that begins at ``start``.

    Returns None while it is not whole. One empty line before it is passed over.

    Raises:
        ProtocolError: with the status the client should get (400, 414, 417, 431, 501, 505).
    """
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = len(data), at, end, line, space, length, query
    cdef RequestHead head
    cdef const uint8_t *found
    _check_call(size, start, limits)
    if size - start >= 2 and text[start] == c"\r" and text[start + 1] == c"\n":
        start += 2
    found = <const uint8_t *>memchr(text + start, c"\n", size - start) if size > start else NULL
    if found == NULL:
        if size - start > limits.line_bytes:
            raise _bad(True, "the request line is too long", 414, "uri_too_long")
        return None
    line = found - text + 1
    if line - start > limits.line_bytes:
        raise _bad(True, "the request line is too long", 414, "uri_too_long")
    end = _head_end(text, start, line, size)
    if end < 0 or end - start > limits.head_bytes:
        if size - start > limits.head_bytes:
            raise _bad(True, "the header is too large", 431, "header_too_large")
        return None

    head = RequestHead.__new__(RequestHead)
    head.end = end
    _keep_raw(head, data, start, end)
    text = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    line -= start
    end -= start
    if line < 4 or text[line - 2] != c"\r" or text[end - 2] != c"\r":
        raise _bad(True, "a line that does not end in CRLF")
    # method SP target SP HTTP/1.x CRLF
    at = 0
    while TCHAR[text[at]]:
        at += 1
    if at == 0 or text[at] != c" ":
        raise _bad(True, "a malformed request line")
    head.method = _method(text, at)
    if at > MAX_METHOD_BYTES or same(text, at, "connect", 7) or same(text, at, "trace", 5):
        # A tunnel is not offered, and what a node echoes would hold the keys we sent to it.
        raise _bad(True, "a method that is not supported", 501, "not_implemented")
    space = at + 1
    at = space
    while TARGET[text[at]]:
        at += 1
    length = at - space
    if text[at] != c" " or length == 0:
        raise _bad(True, "a malformed request target")
    if line - at != 11 or memcmp(text + at + 1, b"HTTP/", 5):
        raise _bad(True, "a malformed request line")
    if text[at + 6] != c"1" or text[at + 7] != c"." or (text[at + 8] != c"1" and text[at + 8] != c"0"):
        if 48 <= text[at + 6] <= 57 and text[at + 7] == c"." and 48 <= text[at + 8] <= 57:
            raise _bad(True, "an HTTP version that is not supported", 505, "version_not_supported")
        raise _bad(True, "a malformed request line")
    head.minor_version = text[at + 8] - 48
    if text[space] != c"/":
        at = _absolute(head, text + space, length)
        space += at
        length -= at
    # (An absolute target may have no path: then it means the root, and has been rewritten.)
    if head.target is None:
        head.target = PyBytes_FromStringAndSize(<const char *>text + space, length)
        found = <const uint8_t *>memchr(text + space, c"?", length)
        query = found - (text + space) if found != NULL else length
        head.path = head.target if query == length else part(head.raw, space, space + query)
        check_path(text + space, query)
    _scan_fields(head, line, end - 2, limits.fields, True)
    if head.host is None:
        _framing(head, True)
    else:
        _framing_of_absolute(head)
    head.is_head = head.method is _HEAD
    return head


cpdef ResponseHead scan_response(bytes data, Py_ssize_t start, Limits limits):
    """Scan the response head that begins at ``start``; None while it is not whole.

    Raises:
        BadResponse: it is not a valid head, or a limit is passed.
    """
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = len(data), end, line, i
    cdef ResponseHead head
    cdef const uint8_t *found
    _check_call(size, start, limits)
    # What can no longer become a status line is refused before its line ends.
    if memcmp(text + start, b"HTTP/", min(size - start, 5)):
        raise _bad(False, "the answer is not HTTP")
    found = <const uint8_t *>memchr(text + start, c"\n", size - start) if size > start else NULL
    if found == NULL:
        if size - start > limits.line_bytes:
            raise _bad(False, "the status line is too long")
        return None
    line = found - text + 1
    if line - start > limits.line_bytes:
        raise _bad(False, "the status line is too long")
    end = _head_end(text, start, line, size)
    if end < 0 or end - start > limits.head_bytes:
        if size - start > limits.head_bytes:
            raise _bad(False, "the answer's header is too large")
        return None
    head = ResponseHead.__new__(ResponseHead)
    head.end = end
    _keep_raw(head, data, start, end)
    text = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    line -= start
    end -= start
    # HTTP/1.x SP 3 digits [SP reason] CRLF
    if (
        line < 14
        or text[line - 2] != c"\r"
        or text[end - 2] != c"\r"
        or text[5] != c"1"
        or text[6] != c"."
        or (text[7] != c"1" and text[7] != c"0")
        or text[8] != c" "
        or (text[12] != c" " and line != 14)
    ):
        raise _bad(False, "a malformed status line")
    head.minor_version = text[7] - 48
    head.status = <int>digits(text + 9, 3)
    if head.status < 100 or head.status > 599:
        raise _bad(False, "a status that is not valid")
    head.reason_start = 13
    head.reason_len = line - 2 - 13 if line - 2 > 13 else 0
    for i in range(head.reason_start, head.reason_start + head.reason_len):
        if not VCHAR[text[i]]:
            raise _bad(False, "a malformed status line")
    _scan_fields(head, line, end - 2, limits.fields, False)
    _framing(head, False)
    _content_type(head)
    return head


cdef void _content_type(ResponseHead head) noexcept:
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    cdef Py_ssize_t i = head._find("content-type", 12), length
    if i < 0:
        return
    raw += head.fields[i].value
    length = head.fields[i].value_len
    # "/" is no token character, so the two halves are compared apart.
    if _is_type(raw, length, "text", 4, "event-stream", 12):
        head.is_event_stream = True
    elif _is_type(raw, length, "application", 11, "json", 4):
        head.is_json = True


cdef bint _is_type(
    const uint8_t *value,
    Py_ssize_t length,
    const char *kind,
    Py_ssize_t kind_len,
    const char *subtype,
    Py_ssize_t subtype_len,
) noexcept:
    """Whether a Content-Type names this type, its parameters aside."""
    cdef Py_ssize_t end = kind_len + 1 + subtype_len
    return (
        length >= end
        and same(value, kind_len, kind, kind_len)
        and value[kind_len] == c"/"
        and same(value + kind_len + 1, subtype_len, subtype, subtype_len)
        and (length == end or value[end] == c";" or value[end] == c" " or value[end] == c"\t")
    )


cdef Py_ssize_t _head_end(const uint8_t *text, Py_ssize_t start, Py_ssize_t line, Py_ssize_t size) noexcept:
    """Offset just behind the empty line that ends a head, or -1. ``line``: behind the first line.

    A bare LF does not end a line here; the field scan refuses it where it stands.
    """
    cdef const uint8_t *found
    cdef Py_ssize_t at = line
    while True:
        if size - at >= 2 and text[at] == c"\r" and text[at + 1] == c"\n":
            return at + 2
        # An empty line in the wrong spelling ends the head too, so that it is refused at once.
        if size - at >= 1 and text[at] == c"\n":
            return at + 1
        if at >= size:
            return -1
        found = <const uint8_t *>memchr(text + at, c"\n", size - at)
        if found == NULL:
            return -1
        at = found - text + 1


# --- Bytes ------------------------------------------------------------------------------------


cpdef bytes part(bytes data, Py_ssize_t start, Py_ssize_t end):
    """``data[start:end]`` of offsets that lie in it, without what a slice of Python costs."""
    if not 0 <= start <= end <= PyBytes_GET_SIZE(data):
        raise ValueError("not offsets in these bytes")
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, end - start)


cpdef bytes joined(bytes first, bytes second):
    """``first + second``, at a third of the price."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(first)
    cdef bytes both = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(second))
    memcpy(PyBytes_AS_STRING(both), PyBytes_AS_STRING(first), size)
    memcpy(PyBytes_AS_STRING(both) + size, PyBytes_AS_STRING(second), PyBytes_GET_SIZE(second))
    return both


cpdef bytes numbered(bytes prefix, long long number):
    """``prefix`` and the decimal digits of ``number``, which is not negative."""
    cdef uint8_t spelled[20]
    cdef Py_ssize_t width = _put_number(spelled, number) - spelled
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, size + width)
    memcpy(PyBytes_AS_STRING(whole), PyBytes_AS_STRING(prefix), size)
    memcpy(PyBytes_AS_STRING(whole) + size, spelled, width)
    return whole


cpdef bytes chunk_of(bytes content, bint is_last):
    """``content`` as one chunk of the chunked coding, and the last chunk behind it if it ``is_last``."""
    cdef uint8_t size_line[20]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(content)
    cdef Py_ssize_t rest = size
    cdef int at = 20
    cdef bytes whole
    cdef uint8_t *to
    if size == 0:
        return LAST_CHUNK if is_last else b""
    at -= 2
    memcpy(size_line + at, b"\r\n", 2)
    while rest:
        at -= 1
        size_line[at] = b"0123456789abcdef"[rest & 15]
        rest >>= 4
    whole = PyBytes_FromStringAndSize(NULL, 20 - at + size + 2 + (5 if is_last else 0))
    to = _put(<uint8_t *>PyBytes_AS_STRING(whole), size_line + at, 20 - at)
    to = _put_bytes(to, content)
    to = _put(to, b"\r\n", 2)
    if is_last:
        _put(to, b"0\r\n\r\n", 5)
    return whole


LAST_CHUNK = b"0\r\n\r\n"


# --- Writing ----------------------------------------------------------------------------------


def check_value(bytes value not None):
    """Return ``value`` if it may be written as a field value; every emitter asks this first.

    Raises:
        ValueError: it holds CR, LF, NUL or another control character.
    """
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(value)
    cdef Py_ssize_t i
    for i in range(len(value)):
        if not VCHAR[text[i]]:
            raise ValueError("a header value with a control character")
    return value


def check_name(bytes name not None):
    """Return ``name`` if it is a field name, else raise ValueError."""
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(name)
    cdef Py_ssize_t i
    if not name or len(name) > MAX_NAME_BYTES:
        raise ValueError("a header name that is empty or too long")
    for i in range(len(name)):
        if not TCHAR[text[i]]:
            raise ValueError("a header name with a character that is not allowed")
    return name


def field_block(fields):
    """The given (name, value) pairs as validated header lines, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % (check_name(name), check_value(value)) for name, value in fields])


cdef inline uint8_t *_put(uint8_t *to, const void *text, Py_ssize_t length) noexcept:
    memcpy(to, text, length)
    return to + length


cdef inline uint8_t *_put_bytes(uint8_t *to, bytes text) noexcept:
    return _put(to, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


@cython.cdivision(True)
cdef inline uint8_t *_put_number(uint8_t *to, long long number) noexcept:
    cdef uint8_t spelled[20]
    cdef int at = 20
    while True:
        at -= 1
        spelled[at] = 48 + number % 10
        number //= 10
        if number == 0:
            return _put(to, spelled + at, 20 - at)


cdef uint8_t *_put_framing(uint8_t *to, long long body_bytes) noexcept:
    if body_bytes >= 0:
        to = _put(to, b"content-length: ", 16)
        to = _put_number(to, body_bytes)
        return _put(to, b"\r\n", 2)
    if body_bytes == CHUNKED_BODY:
        return _put(to, b"transfer-encoding: chunked\r\n", 28)
    return to


cdef uint8_t *_put_fields(
    uint8_t *to, Head head, FieldFilter drop, FieldFilter keep, FieldFilter also_drop
) noexcept:
    """Copy the fields that are not hop-by-hop and that the filters let pass, one by one."""
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
    cdef field_t *field
    cdef Py_ssize_t i
    for i in range(head.field_count):
        field = &head.fields[i]
        if field.drop:
            continue
        if keep is not None and not keep.matches(raw + field.name, field.name_len):
            continue
        if drop is not None and drop.matches(raw + field.name, field.name_len):
            continue
        if also_drop is not None and also_drop.matches(raw + field.name, field.name_len):
            continue
        if field.is_plain:
            to = _put(to, raw + field.name, field.name_len + field.value_len + 4)
            continue
        to = _put(to, raw + field.name, field.name_len)
        to = _put(to, b": ", 2)
        to = _put(to, raw + field.value, field.value_len)
        to = _put(to, b"\r\n", 2)
    return to


cdef bytes _with_body(const uint8_t *head, Py_ssize_t size, bytes body):
    """A head that was written, and a body if there is one, as one piece: it is one write."""
    cdef bytes whole
    if body is None:
        return PyBytes_FromStringAndSize(<const char *>head, size)
    whole = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(body))
    memcpy(PyBytes_AS_STRING(whole), head, size)
    memcpy(PyBytes_AS_STRING(whole) + size, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return whole


cdef class RequestTemplate:
    """What is the same in every request of one route to one node.

    Args:
        host: the node's Host, or None to send the client's own.
        fields: (name, value) pairs that are always sent, credentials among them.
        drop: names of client fields that are not passed on (hop-by-hop ones never are).
        keep: if given, the only client fields that are passed on.
    """

    def __init__(self, host, fields=(), drop=(), keep=None):
        block = [] if host is None else [(b"host", host)]
        self._block = field_block([*block, *fields])
        self.forwards_host = host is None
        self._drop = FieldFilter(drop)
        self._keep = FieldFilter(keep) if keep is not None else None

    cpdef bytes render(
        self,
        RequestHead head,
        bytes method,
        bytes target,
        long long body_bytes,
        bytes extra=None,
        FieldFilter extra_drop=None,
        bytes body=None,
    ):
        """The head to send: request line, our fields, the client's, ``extra`` (validated lines).

        Args:
            body_bytes: the body's size, or NO_BODY, or CHUNKED_BODY.
            body: what follows the head in the same bytes.
        """
        if head is None:
            raise TypeError("head must not be None")
        cdef Py_ssize_t bound = (
            head.size + 3 * head.field_count + len(method) + len(target) + len(self._block) + 80
            + (len(extra) if extra is not None else 0) + (len(head.host) if head.host is not None else 0)
        )
        cdef uint8_t *start
        cdef uint8_t *to
        cdef uint8_t small[4096]
        cdef bytes large = None
        if bound <= 4096:
            start = small
        else:
            large = PyBytes_FromStringAndSize(NULL, bound)
            start = <uint8_t *>PyBytes_AS_STRING(large)
        to = _put_bytes(start, method)
        to = _put(to, b" ", 1)
        to = _put_bytes(to, target)
        to = _put(to, b" HTTP/1.1\r\n", 11)
        if self.forwards_host and head.host is not None:
            to = _put(to, b"host: ", 6)
            to = _put_bytes(to, head.host)
            to = _put(to, b"\r\n", 2)
        to = _put_bytes(to, self._block)
        to = _put_fields(to, head, self._drop, self._keep, extra_drop)
        if extra is not None:
            to = _put_bytes(to, extra)
        to = _put_framing(to, body_bytes)
        to = _put(to, b"\r\n", 2)
        return _with_body(start, to - start, body)


cdef class ResponseTemplate:
    """How a node's answer heads are written for clients: which fields are not passed on."""

    def __init__(self, drop=()):
        self._drop = FieldFilter(drop)

    cpdef bytes render(
        self,
        ResponseHead head,
        long long body_bytes,
        bint keep_alive,
        int client_minor,
        bytes extra,
        bytes request_id=None,
        int attempts=0,
        bytes body=None,
    ):
        """The head to send.

        Args:
            body_bytes: the body's size, or NO_BODY (none by rule; a length the node gave is
                kept for HEAD), CHUNKED_BODY or UNTIL_CLOSE.
            extra: our own fields, validated lines.
            request_id: is sent as ``x-fastgw-request-id``, and as ``x-request-id`` unless the node
                has sent one.
            attempts: is sent as ``x-fastgw-attempts`` unless it is 0.
            body: what follows the head in the same bytes.
        """
        if head is None:
            raise TypeError("head must not be None")
        cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(head.raw)
        cdef Py_ssize_t bound = (
            head.size + 3 * head.field_count + len(extra) + 192
            + (2 * len(request_id) if request_id is not None else 0)
        )
        cdef uint8_t *start
        cdef uint8_t *to
        cdef uint8_t small[4096]
        cdef bytes large = None
        if bound <= 4096:
            start = small
        else:
            large = PyBytes_FromStringAndSize(NULL, bound)
            start = <uint8_t *>PyBytes_AS_STRING(large)
        to = _put(start, b"HTTP/1.1 ", 9)
        to = _put_number(to, head.status)
        to = _put(to, b" ", 1)
        to = _put(to, raw + head.reason_start, head.reason_len)
        to = _put(to, b"\r\n", 2)
        to = _put_fields(to, head, self._drop, None, None)
        to = _put_bytes(to, extra)
        if attempts:
            to = _put(to, b"x-fastgw-attempts: ", 19)
            to = _put_number(to, attempts)
            to = _put(to, b"\r\n", 2)
        if request_id is not None:
            to = _put(to, b"x-fastgw-request-id: ", 21)
            to = _put_bytes(to, request_id)
            to = _put(to, b"\r\n", 2)
            if head._find("x-request-id", 12) < 0:
                to = _put(to, b"x-request-id: ", 14)
                to = _put_bytes(to, request_id)
                to = _put(to, b"\r\n", 2)
        to = _put_framing(to, body_bytes)
        if not keep_alive:
            to = _put(to, b"connection: close\r\n", 19)
        elif client_minor == 0:
            to = _put(to, b"connection: keep-alive\r\n", 24)
        to = _put(to, b"\r\n", 2)
        return _with_body(start, to - start, body)
