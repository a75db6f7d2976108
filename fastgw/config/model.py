"""The configuration as frozen values: what the files say, with every default filled in.

Nothing here knows sockets or objects; ``gateway.py`` builds those from these values.
Times are seconds, sizes bytes, weights and priorities integers.
Values compare without their marks: what only moved to another line is unchanged.
Keys are ``Secret``: they are in no ``repr``, and are not pickled but by ``secret.packed``.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ..balancing.deadlines import Deadlines as Deadlines  # one table for both
from ..balancing.retry import Fallback as Fallback  # and one rule
from ..secret import Secret

EMPTY: Mapping[str, Any] = MappingProxyType({})


def read_only(items: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(items)


def _reduce(mapping: MappingProxyType[str, Any]) -> tuple[Any, ...]:
    return read_only, (dict(mapping),)


# A configuration goes from process to process; this is the one value in it that cannot by itself.
copyreg.pickle(MappingProxyType, _reduce)


class Profile(StrEnum):
    """Which set of defaults fills in what a file leaves out."""

    LLM = "llm"
    APISIX = "apisix"


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands in its file; line and column count from 1."""

    file: str
    line: int
    column: int
    path: str = ""  # services[0].upstream.nodes[1]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """An upstream's or route's ``timeout``: connect, send (no write progress), read (silence)."""

    connect_s: float
    send_s: float
    read_s: float


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The idle pool of one node."""

    size: int = 320
    idle_timeout_s: float = 30.0
    requests: int = 1000


@dataclass(frozen=True, slots=True)
class ActiveCheck:
    """Probes. An interval of 0 means: this kind of probe never runs.

    ``None`` for a status set means that the user wrote none and the profile's rule holds
    (llm: below 500 is up, 5xx is down).
    """

    type: str  # http | https | tcp
    timeout_s: float = 1.0
    concurrency: int = 10
    host: str | None = None
    port: int | None = None
    http_method: str = "GET"
    http_path: str = "/"
    verify: bool = True
    req_headers: tuple[tuple[str, str | Secret], ...] = field(default=(), repr=False)
    healthy_interval_s: float = 1.0
    healthy_statuses: frozenset[int] | None = None
    successes: int = 2
    unhealthy_interval_s: float = 1.0
    unhealthy_statuses: frozenset[int] | None = None
    http_failures: int = 5
    tcp_failures: int = 2
    timeouts: int = 3


@dataclass(frozen=True, slots=True)
class PassiveCheck:
    """Counting of live outcomes. 0 switches a counter off; ``None`` statuses as in ActiveCheck."""

    healthy_statuses: frozenset[int] | None = None
    successes: int = 5
    unhealthy_statuses: frozenset[int] | None = None
    http_failures: int = 5
    tcp_failures: int = 5
    timeouts: int = 5
    connect_failure_ejects: bool = True  # one refused, untrusted or blackholed connect is enough


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """How a request is written for a node that is an instance of an ai-proxy plugin."""

    path: str | None = None  # of every call whose kind is known; None: the provider's own
    options: Mapping[str, Any] = field(
        default_factory=lambda: EMPTY, hash=False, repr=False
    )  # replace body fields
    max_tokens: int | None = None
    patches: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: EMPTY, hash=False, repr=False
    )  # by kind of call: merged into the body
    patch_forced: bool = False  # over what the client wrote


@dataclass(frozen=True, slots=True)
class AccountCheck:
    """Requests of our own that cost nothing and tell whether a node's credential works.

    A path of None is not asked; one of them is there.
    """

    models_path: str | None = None
    balance_path: str | None = None
    interval_s: float = 60.0  # while all is well; sooner after a check that found something
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One server of an upstream, with our own extensions of APISIX's node object."""

    host: str
    port: int
    weight: int = 1
    priority: int = 0
    name: str = ""  # "host:port" when the file gives none
    provider: str | None = None  # known hosts imply it
    dialect: str | None = None  # the provider its requests are adapted to; None: they stay as they are
    auth_headers: tuple[tuple[str, Secret], ...] = ()
    auth_query: tuple[tuple[str, Secret], ...] = ()
    models: tuple[tuple[str, str | None], ...] = ()  # (glob, model) in written order; None: as asked
    capabilities: tuple[tuple[str, bool], ...] = ()  # over what its provider is known for
    strict: bool = False  # gets no request whose meaning would have to be altered for it
    timeout: Timeouts | None = None
    max_in_flight: int = 0  # 0: no limit
    ca_file: str | None = None
    account: AccountCheck | None = None  # None: its credential is not checked
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY, hash=False, repr=False)
    scheme: str | None = None  # None: the upstream's
    active: ActiveCheck | None = None  # None: the upstream's
    instance: InstanceConfig | None = None  # of an ai-proxy plugin
    mark: Mark | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class AiProxyConfig:
    """What an ai-proxy plugin says of its route as a whole."""

    fallback: Fallback | None = None  # None: the profile's rules
    max_body_bytes: int = 64 * 1024 * 1024
    max_stream_s: float = 0.0  # 0: no limit of its own


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """A named set of nodes with balancing, health and retry policy."""

    name: str
    nodes: tuple[NodeConfig, ...]
    type: str = "roundrobin"
    scheme: str = "http"
    retries: int | None = None  # None: number of nodes - 1
    retry_timeout_s: float = 0.0  # 0: no limit of its own
    timeout: Timeouts | None = None
    pass_host: str = "node"  # pass | node | rewrite
    upstream_host: str | None = None
    keepalive: Keepalive = field(default_factory=Keepalive)
    active: ActiveCheck | None = None
    passive: PassiveCheck | None = None  # None: the file wrote none; the profile decides
    ca_file: str | None = None
    ai_proxy: AiProxyConfig | None = None  # the plugin that made it, if one did
    id: str = ""
    mark: Mark | None = field(default=None, compare=False)

    def scheme_of(self, node: NodeConfig) -> str:
        """How a node of this upstream is spoken to."""
        return node.scheme or self.scheme

    def check_of(self, node: NodeConfig) -> ActiveCheck | None:
        """How a node of this upstream is probed, if it is."""
        return node.active or self.active

    @property
    def owner(self) -> str:
        """The kind of object it is written in, whose id it has: services, routes, upstreams ..."""
        path = self.mark.path if self.mark is not None else ""
        return path.rpartition("[")[0].rpartition(".")[2] or "upstreams"

    @property
    def is_probed(self) -> bool:
        """Is any node?"""
        return self.active is not None or any(node.active is not None for node in self.nodes)


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One plugin of a route or service: its name and its conf as written (validated).

    Of a plugin that brings an upstream the conf is in that, and only what all plugins have is here.
    """

    name: str
    conf: Mapping[str, Any] = field(hash=False, repr=False)
    upstream: UpstreamConfig | None = None  # of a plugin that brings its own
    mark: Mark | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """A predicate on a request head, its plugins, its upstream."""

    id: str
    name: str
    uris: tuple[str, ...]  # "/a" exact, "/a*" prefix
    upstream: UpstreamConfig | None
    service: str | None = None
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    priority: int = 0
    plugins: tuple[PluginConfig, ...] = ()  # service and route merged, the route's wins by name
    timeout: Timeouts | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    replayable: bool | None = None  # None: by method and path
    passthrough: bool = False  # the client's own credentials go to the node
    enable_websocket: bool = False
    on_context_length: str = "answer"  # answer | move: of a request that is too long for its model
    on_stream_failure: str = "end"  # end | resume: what becomes of a stream that breaks after its commit
    strip_prefix: str = ""  # nodes see the path without it; "" or "/a", never with a / at its end
    mark: Mark | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """A client known by its keys (key-auth)."""

    username: str
    keys: tuple[Secret, ...]
    mark: Mark | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """What the listeners show to clients that speak TLS: PEM files, and the least version."""

    certificate: str
    key: str
    min_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The top-level ``fastgw:`` object: settings of the process, not of a route."""

    listen: tuple[str, ...] = ()  # () : the command line's default
    admin: str | None = None
    admin_token: Secret | None = None
    workers: int = 1  # processes
    drain_s: float = 30.0
    access_log: str | None = None
    log_level: str | None = None
    log_format: str | None = None
    credentials_dir: str | None = None  # where ${credential:NAME} is; None: where the environment says
    tls: TlsConfig | None = None
    ca_file: str | None = None
    connect_to: tuple[tuple[str, int, str, int], ...] = ()  # "" and 0: any, or unchanged
    account_checks: bool = True  # False: none, whatever the upstreams say
    dead_reprobe_s: float = 60.0
    cooling_max_s: float = 600.0
    retry_budget_percent: float = 20.0  # 0: no budget
    slow_start_s: float = 10.0  # 0: a node is back with all of its share
    hold_body_bytes: int = 16 * 1024 * 1024
    hold_total_bytes: int = 256 * 1024 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    hold_answer_bytes: int = 1024 * 1024
    max_line_bytes: int = 16 * 1024
    max_head_bytes: int = 32 * 1024
    max_fields: int = 100
    memory_limit: int = 0  # bytes of one worker; 0: no limit
    max_connections: int = 10_000
    max_connections_per_client: int = 0  # 0: no limit
    head_timeout_s: float = 10.0
    body_stall_s: float = 30.0
    min_body_rate: int = 256  # bytes a second
    keepalive_s: float = 75.0
    allow_unauthenticated: bool = False
    response_headers: bool = True  # x-fastgw-upstream and its kin


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, validated configuration."""

    routes: tuple[RouteConfig, ...]
    consumers: tuple[ConsumerConfig, ...] = ()
    process: ProcessConfig = field(default_factory=ProcessConfig)
    profile: Profile = Profile.LLM
    file: str = "<embedded>"
    warnings: tuple[str, ...] = ()
