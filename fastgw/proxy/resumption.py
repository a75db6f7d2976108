"""One broken stream that another node goes on with: what an exchange has to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..llm.resume import Splicer, Transcript, continue_body
from .plan import NodeLink


def can_be_resumed(method: bytes, path: bytes) -> bool:
    """Is this one of the calls whose answer can be continued? The others' events mean other things."""
    return method == b"POST" and path.endswith(b"/chat/completions")


@dataclass(slots=True)
class Resumption:
    """Begun when a stream breaks, and kept to the end of the exchange.

    Attributes:
        code: why the stream broke the first time: what the caller is told if nobody can go on.
        error_event: the provider's own word for it; b"" when it said none.
        transcript: what the client has been given.
        by_prefix: the node now asked was given the answer so far, and not only the question.
        may_prefix: no node that takes prefixes has refused this one.
    """

    code: str
    error_event: bytes
    transcript: Transcript
    by_prefix: bool = False
    may_prefix: bool = True

    def choose_way(self, link: NodeLink) -> None:
        """How this node is asked to go on."""
        transcript = self.transcript
        self.by_prefix = (
            self.may_prefix and link.prefix_target != b"" and not transcript.tools and transcript.text != ""
        )

    def body_for(self, body: bytes) -> bytes:
        """The request's body, rendered for the node, as it has to be for this way, or for the other one."""
        if self.by_prefix:
            continued = continue_body(body, self.transcript.text, self.transcript.pieces)
            if continued is not None:
                return continued
            self.by_prefix = False  # the whole question it is
        return body

    def filter_for(self, link: NodeLink) -> Splicer:
        """What the new node's events go through."""
        way = "prefix" if self.by_prefix else "repetition"
        comment = f"fastgw: resumed by {way} on {link.name}"
        return Splicer(self.transcript, by_prefix=self.by_prefix, comment=comment)
