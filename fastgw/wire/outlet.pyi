"""What mypy and readers see of outlet.pyx; the contracts are in the docstrings there."""

from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Outlet:
    """The way out of one connection. Its owner writes to the transport through it only."""

    def __init__(self, transport: Any) -> None: ...
    def write(self, data: bytes) -> None:
        """Send bytes, in order; what the socket does not take now waits in the transport."""

    def write_all(self, parts: list[bytes | memoryview]) -> None:
        """Send a few parts, one behind the other: in one call, without a copy."""

    def lost(self) -> None:
        """The connection has ended: nothing is written any more."""

    def unsent(self) -> int:
        """How many bytes the socket has not taken yet."""
