"""What mypy and readers see of head.pyx; the contracts are in the docstrings there.

A head is made by its scan function only. An attribute that is None where its type says otherwise
belongs to a head that was made by hand.
"""

from collections.abc import Callable, Iterable
from typing import Final

from typing_extensions import disjoint_base

NO_BODY: Final = -1
CHUNKED_BODY: Final = -2
UNTIL_CLOSE: Final = -3
LAST_CHUNK: Final[bytes]

@disjoint_base
class Limits:
    """Bounds of one head: its first line, the whole of it (bytes), and its number of fields."""

    line_bytes: Final[int]
    head_bytes: Final[int]
    fields: Final[int]
    def __init__(self, line_bytes: int = 16384, head_bytes: int = 32768, fields: int = 100) -> None: ...

@disjoint_base
class FieldFilter:
    """A set of field names; a name that ends in ``*`` is a prefix. At most 255 names.

    Raises:
        ValueError: too many names, an empty one, or one above 256 bytes.
    """

    names: Final[frozenset[bytes]]
    def __init__(self, names: Iterable[bytes]) -> None: ...
    def __contains__(self, name: bytes, /) -> bool: ...

@disjoint_base
class Head:
    """The fields of one validated head, as offsets into ``raw``.

    ``end`` is the offset in the scanned data where the body begins. ``content_length`` is -1
    when there is none.
    """

    raw: Final[bytes]
    size: Final[int]
    minor_version: Final[int]
    content_length: Final[int]
    is_chunked: Final[bool]
    keep_alive: Final[bool]
    end: Final[int]
    def get(self, name: bytes) -> bytes | None:
        """The value of the first field called ``name`` (lower case), or None."""

    def names(self, name: bytes) -> bool:
        """Is there a field called ``name`` (lower case)?"""

    def items(self) -> list[tuple[bytes, bytes]]:
        """All fields as (lower-case name, value), in order."""

@disjoint_base
class RequestHead(Head):
    """One request. ``path`` is the target without its query."""

    method: Final[bytes]
    target: Final[bytes]
    path: Final[bytes]
    host: Final[bytes | None]
    expects_continue: Final[bool]
    wants_upgrade: Final[bool]
    is_head: Final[bool]

@disjoint_base
class ResponseHead(Head):
    """One response's status and fields."""

    status: Final[int]
    is_event_stream: Final[bool]
    is_json: Final[bool]
    def mask(self, masked: Callable[[bytes], bytes]) -> None:
        """Show what ``masked`` makes of each line in its place; no line may change its length."""

def scan_request(data: bytes, start: int, limits: Limits) -> RequestHead | None:
    """Scan the request head that begins at ``start``.

    Returns None while it is not whole. One empty line before it is passed over.

    Raises:
        ProtocolError: with the status the client should get (400, 414, 417, 431, 501, 505).
    """

def scan_response(data: bytes, start: int, limits: Limits) -> ResponseHead | None:
    """Scan the response head that begins at ``start``; None while it is not whole.

    Raises:
        BadResponse: it is not a valid head, or a limit is passed.
    """

def part(data: bytes, start: int, end: int) -> bytes:
    """``data[start:end]`` of offsets that lie in it; else ValueError."""

def joined(first: bytes, second: bytes) -> bytes:
    """``first + second``."""

def numbered(prefix: bytes, number: int) -> bytes:
    """``prefix`` and the decimal digits of ``number``, which is not negative."""

def chunk_of(content: bytes, is_last: bool) -> bytes:
    """``content`` as one chunk of the chunked coding, and the last chunk behind it if it ``is_last``."""

def check_value(value: bytes) -> bytes:
    """Return ``value`` if it may be written as a field value; every emitter asks this first.

    Raises:
        ValueError: it holds CR, LF, NUL or another control character.
    """

def check_name(name: bytes) -> bytes:
    """Return ``name`` if it is a field name, else raise ValueError."""

def field_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The given (name, value) pairs as validated header lines, each with its CRLF."""

@disjoint_base
class RequestTemplate:
    """What is the same in every request of one route to one node."""

    forwards_host: Final[bool]
    def __init__(
        self,
        host: bytes | None,
        fields: Iterable[tuple[bytes, bytes]] = (),
        drop: Iterable[bytes] = (),
        keep: Iterable[bytes] | None = None,
    ) -> None: ...
    def render(
        self,
        head: RequestHead,
        method: bytes,
        target: bytes,
        body_bytes: int,
        extra: bytes | None = None,
        extra_drop: FieldFilter | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """The head to send: request line, our fields, the client's, ``extra`` (validated lines)."""

@disjoint_base
class ResponseTemplate:
    """How a node's answer heads are written for clients: which fields are not passed on."""

    def __init__(self, drop: Iterable[bytes] = ()) -> None: ...
    def render(
        self,
        head: ResponseHead,
        body_bytes: int,
        keep_alive: bool,
        client_minor: int,
        extra: bytes,
        request_id: bytes | None = None,
        attempts: int = 0,
        body: bytes | None = None,
    ) -> bytes:
        """The head to send, and ``body`` behind it."""
