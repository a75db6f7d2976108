"""The floor: a relay in C that knows nothing of HTTP."""

from __future__ import annotations

from .. import programs
from ..upstreams import Upstream
from .peer import Peer


class Relay(Peer):
    name = "relay"
    title = "C relay (floor)"
    is_http = False
    speaks_tls = False

    def version(self) -> str:
        return "native/relay.c"

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        return [str(programs.relay()), str(port), str(upstream.port)]
