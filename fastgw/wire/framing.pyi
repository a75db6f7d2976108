"""What mypy and readers see of framing.pyx; the contracts are in the docstrings there."""

from typing_extensions import disjoint_base

@disjoint_base
class BodyFramer:
    """Finds the end of a message's body in the raw bytes, and where its content lies in them.

    After each ``feed`` the ``count`` spans are the pieces of content in that data.
    ``is_verbatim`` says that what was fed may be passed on as it is: it began and ended between
    two chunks and held no extension and no trailer.
    """

    # Read-only; properties, because they change while one looks.
    @property
    def count(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def is_chunked(self) -> bool: ...
    @property
    def is_verbatim(self) -> bool: ...
    def expect(self, body_bytes: int) -> None:
        """Begin a message: its size, or NO_BODY, CHUNKED_BODY or UNTIL_CLOSE."""

    def complete_at_eof(self) -> None:
        """The stream has ended, and that is the end of a body without a length."""

    def feed(self, data: bytes, start: int) -> int:
        """Take data[start:]; return the offset just behind what belongs to this message.

        Raises:
            ValueError: the chunked coding is broken.
        """

    def decoded(self, data: bytes) -> bytes:
        """The content found by the last feed of ``data``, joined."""

    def span_start(self, index: int) -> int:
        """Where a piece of content begins in the data last fed."""

    def span_end(self, index: int) -> int:
        """Where a piece of content ends in the data last fed."""
