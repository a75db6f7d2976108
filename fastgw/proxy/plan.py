"""What an exchange needs to know of its route and nodes, resolved when a configuration is loaded."""

from __future__ import annotations

from typing import Any

from ..balancing.deadlines import Deadlines
from ..balancing.retry import Fallback
from ..balancing.upstream import Upstream
from ..llm.adapter import Adapter
from ..redaction import PATTERNS, Redactor
from ..wire.head import RequestTemplate, ResponseTemplate, check_value, field_block
from ..wire.pool import Pool


class NodeLink:
    """One node as one route uses it: its connections and how a request is written for it.

    ``position`` is the node's place in the upstream. Its credentials are in ``template`` and ``query``
    only. ``paths`` translates the targets that have a name of their own at this node.
    ``adapter`` is None where no request is changed or refused; ``call_adapters`` has, by target,
    the calls that have another one.
    """

    def __init__(
        self,
        node: Any,
        pool: Pool,
        template: RequestTemplate,
        *,
        position: int,
        provider: str | None = None,
        adapter: Adapter | None = None,
        call_adapters: dict[bytes, Adapter] | None = None,
        query: bytes = b"",
        paths: dict[bytes, bytes] | None = None,
        auth_names: frozenset[bytes] = frozenset(),
        prefix_target: bytes = b"",
        limits_per_model: bool = False,
        redactor: Redactor = PATTERNS,
    ) -> None:
        self.node = node
        self.name: str = node.name
        # The answer's own lines.
        self.answer_lines = b"x-fastgw-upstream: %b\r\n" % check_value(node.name.encode())
        self.pool = pool
        self.template = template
        self.position = position
        self.provider = provider
        self.adapter = adapter or None
        self.call_adapters = call_adapters
        self._changes: tuple[str, ...] | None = None
        self._adapted_lines = b""
        self.query = query
        self.paths = paths
        self.auth_names = auth_names
        # Where the node continues an answer of which it is given the beginning; b"": nowhere.
        self.prefix_target = prefix_target
        self.limits_per_model = limits_per_model
        self.redactor = redactor  # of what the node says when it refuses
        self.metrics: Any = None  # where its attempts are counted; set and read above this layer

    def adapted_lines(self, changes: tuple[str, ...]) -> bytes:
        """The answer's own lines, with what was changed in the request."""
        if changes is not self._changes:  # most requests are changed alike
            self._changes = changes
            self._adapted_lines = b"x-fastgw-adapted: %b\r\n%b" % (
                ", ".join(changes).encode("ascii"),
                self.answer_lines,
            )
        return self._adapted_lines

    def own_over(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """The plugins' header lines for this node: its own credentials win over theirs."""
        return field_block([field for field in fields if field[0] not in self.auth_names])

    def model_for(self, asked: str) -> str:
        """The model this node is sent for the one a caller asked for."""
        model = self.adapter.model_for(asked) if self.adapter is not None else asked
        return asked if model is None else model

    def target(self, target: bytes) -> bytes:
        """The request target for this node: the client's, with the node's own query arguments."""
        if self.paths is not None:
            target = self.paths.get(target, target)
        if not self.query:
            return target
        return target + (b"&" if b"?" in target else b"?") + self.query


class RoutePlan:
    """One route, ready to serve: upstream, nodes, limits and what its plugins do."""

    def __init__(
        self,
        name: str,
        upstream: Upstream | None,
        links: tuple[NodeLink, ...],
        *,
        plugins: tuple[Any, ...] = (),
        body_plugins: tuple[Any, ...] = (),
        deadlines: Deadlines | None = None,
        is_llm: bool = False,
        replayable: bool | None = None,
        replays_uncertain: bool = True,
        fails_over_on_status: bool = True,
        fallback: Fallback | None = None,
        passthrough: bool = False,
        max_attempts: int | None = None,
        hold_answer_bytes: int = 1024 * 1024,
        uncommitted_bytes: int = 256 * 1024,
        shows_headers: bool = True,
        dropped_answer_fields: tuple[bytes, ...] = (),
        strip_prefix: bytes = b"",
        resumes: bool = False,
        moves_too_long: bool = False,
        enables_websocket: bool = False,
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.links = links
        self.plugins = plugins
        self.body_plugins = body_plugins  # those that want to see the whole body
        self.deadlines = limits = deadlines or Deadlines()
        # The same as C numbers, for the exchange.
        self.connect_s = limits.connect_s
        self.head_stream_s = limits.head_stream_s
        self.head_s = limits.head_s
        self.first_content_stream_s = limits.first_content_stream_s
        self.first_content_s = limits.first_content_s
        self.progress_s = limits.progress_s
        self.idle_s = limits.idle_s
        self.node_write_s = limits.node_write_s
        self.client_write_s = limits.client_write_s
        self.total_s = limits.total_s
        self.tunnel_idle_s = limits.tunnel_idle_s
        self.is_llm = is_llm
        self.replayable = replayable
        self.replays_uncertain = replays_uncertain
        self.fails_over_on_status = fails_over_on_status
        self.fallback = fallback
        self.passthrough = passthrough
        self.max_attempts = max_attempts if max_attempts is not None else max(1, len(links))
        self.hold_answer_bytes = hold_answer_bytes
        self.uncommitted_bytes = uncommitted_bytes
        self.shows_headers = shows_headers
        self.strip_prefix = strip_prefix
        self.moves_too_long = moves_too_long  # a request too long for one model is tried with others
        self.enables_websocket = enables_websocket
        self.resumes = resumes  # a stream that breaks after its commit is continued by another node
        self.answer_template = ResponseTemplate(dropped_answer_fields)
        self.metrics: Any = None  # where its requests are counted; set and read above this layer

    def models_for(self, asked: str) -> tuple[str, ...]:
        """The models the nodes are sent, by position, for the one a caller asked for."""
        return tuple([link.model_for(asked) for link in self.links])

    def target_of(self, target: bytes) -> bytes:
        """The client's target as nodes see it: without the route's prefix."""
        rest = target.removeprefix(self.strip_prefix)
        return rest if rest.startswith(b"/") else b"/" + rest

    def __repr__(self) -> str:
        return f"<RoutePlan {self.name} nodes={len(self.links)}{' llm' if self.is_llm else ''}>"
