"""From a configuration to objects: routes, upstreams, nodes, pools and probes, as one ``Generation``.

Building touches nothing that runs. What did not change is taken over from the generation before:
a pool with its connections, a node with its health. A node's health belongs to its *record key*
(upstream, host, port, credentials), so that worker processes which build the same configuration
have the same records, and a new credential begins anew: what was found out about the old one says
nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from ._core import Node, NodeTable
from .balancing.deadlines import Deadlines
from .balancing.health import HealthPolicy, Thresholds
from .balancing.upstream import Upstream
from .config.model import (
    ActiveCheck,
    AiProxyConfig,
    Config,
    NodeConfig,
    PluginConfig,
    Profile,
    RouteConfig,
    Timeouts,
    UpstreamConfig,
)
from .errors import ConfigError
from .llm.account import Finding
from .llm.adapter import Adapter
from .llm.dialect import DIALECTS, Dialect
from .llm.model_map import ModelMap
from .plugins.ai_proxy import CALLS, LIMITED, AiProxy, paths_of
from .plugins.key_auth import KeyAuth
from .plugins.proxy_rewrite import ProxyRewrite
from .proxy.account_check import AccountChecker, CheckedNode
from .proxy.plan import NodeLink, RoutePlan
from .proxy.probe import ProbedNode, Prober, ProbeSettings, Watch, probe_request
from .redaction import Redactor
from .routing import Route, RouteTable
from .secret import Secret, reveal, secrets_in
from .shared_state import MAX_NODES
from .wire.head import RequestTemplate
from .wire.pool import Pool, PoolSettings
from .wire.resolver import Resolver
from .wire.tls import TlsContext

# What of a client's request does not go to a node unless the route says ``passthrough``.
CREDENTIALS = (
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"x-goog-api-key",
    b"cookie",
    b"openai-organization",
    b"openai-project",
)
# The same, of what an LLM provider gets with ``passthrough``. A cookie is for the gateway's own host.
LLM_CREDENTIALS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")
# What of it goes to any LLM provider at all; its dialect may know more.
LLM_REQUEST_FIELDS = (
    b"accept",
    b"accept-language",
    b"content-type",
    b"idempotency-key",
    b"traceparent",
    b"tracestate",
    b"user-agent",
    b"x-client-request-id",
    b"x-request-id",
)
OWN_FIELDS = (b"x-fastgw-upstream", b"x-fastgw-attempts", b"x-fastgw-request-id", b"x-fastgw-adapted")
# What of a provider's answer does not reach the client: it identifies us, or ties tenants.
LLM_ANSWER_FIELDS = (
    b"alt-svc",
    b"openai-organization",
    b"openai-project",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"via",
)


@dataclass(slots=True)
class BuiltUpstream:
    """One upstream of a generation."""

    config: UpstreamConfig
    upstream: Upstream
    pools: tuple[Pool, ...]
    prober: Prober | None
    checker: AccountChecker | None = None
    probe_pools: tuple[Pool, ...] = ()
    route_ids: list[str] = field(default_factory=list)

    def watches(self) -> list[Watch]:
        """What one worker of all runs beside the requests."""
        return [watch for watch in (self.prober, self.checker) if watch is not None]


@dataclass(slots=True)
class Generation:
    """One configuration, built."""

    number: int
    config: Config
    table: RouteTable
    upstreams: dict[str, BuiltUpstream]
    nodes: dict[str, Node]  # by record key
    pools: dict[tuple[Any, ...], Pool]

    def __repr__(self) -> str:
        return f"<Generation {self.number} routes={len(self.table.routes)} upstreams={len(self.upstreams)}>"


# By the file that says whom to trust; with what tells whether it has changed.
_Contexts = dict[str | None, tuple[tuple[int, ...], TlsContext]]


class Builder:
    """Builds the generations of one process.

    Args:
        resolver: of the pools' names.
        table: where the nodes' records are.
        ca_file: whom to trust where the configuration does not say.
        forwards_simulator_fields: the upstreams are simulated, and may be told what to do.
        on_probed: called after each probe with (upstream, node, result), as a Prober says it.
        on_checked: called after each account check with (upstream, node, finding), as a checker says it.
    """

    def __init__(
        self,
        resolver: Resolver,
        table: NodeTable,
        *,
        ca_file: str | None = None,
        forwards_simulator_fields: bool = False,
        on_probed: Callable[[Upstream, Any, str], None] | None = None,
        on_checked: Callable[[Upstream, Any, Finding | None], None] | None = None,
    ) -> None:
        self.resolver = resolver
        self.table = table
        self.ca_file = ca_file
        self.forwards_simulator_fields = forwards_simulator_fields
        self.on_probed = on_probed
        self.on_checked = on_checked
        self._contexts: _Contexts = {}  # of the last generation
        self._next: _Contexts = {}  # of the one that is being built

    def build(self, config: Config, old: Generation | None, *, number: int) -> Generation:
        """Everything a configuration says, as objects.

        Args:
            old: what is taken over from, if anything.
        Raises:
            ConfigError: a file cannot be read, or the nodes do not fit the table.
        """
        generation = Generation(number, config, RouteTable(()), {}, {}, {})
        self._next = {}
        routes = []
        for route in config.routes:
            built = self._upstream_of(route, config, generation, old)
            plan = self._plan(route, built, config)
            routes.append(
                Route(
                    route.id,
                    route.name,
                    route.uris,
                    plan,
                    hosts=route.hosts,
                    methods=route.methods,
                    priority=route.priority,
                )
            )
            if built is not None:
                built.route_ids.append(route.id)
        count = sum(len(built.pools) for built in generation.upstreams.values())
        if count > MAX_NODES:
            raise ConfigError(f"{count} nodes in all upstreams: there is room for {MAX_NODES}")
        # Records may be in use: what changes in them does so when the whole of a generation was built.
        for built in generation.upstreams.values():
            for node, said in zip(built.upstream.nodes, built.config.nodes, strict=True):
                node.max_in_flight = said.max_in_flight
        generation.table = RouteTable(routes)
        self._contexts = self._next
        return generation

    def _upstream_of(
        self, route: RouteConfig, config: Config, generation: Generation, old: Generation | None
    ) -> BuiltUpstream | None:
        upstream = route.upstream
        if upstream is None:
            return None
        # An upstream that is written inside a route or a service has the id of that one, and an own
        # one may have the same: they must not be taken for each other.
        key = f"/{upstream.owner}/{upstream.id or upstream.name}"
        while key in generation.upstreams and generation.upstreams[key].config is not upstream:
            key += "'"
        if key not in generation.upstreams:
            generation.upstreams[key] = self._build_upstream(key, upstream, config, generation, old)
        return generation.upstreams[key]

    def _build_upstream(
        self, key: str, config: UpstreamConfig, whole: Config, generation: Generation, old: Generation | None
    ) -> BuiltUpstream:
        nodes = []
        pools = []
        for node_config in config.nodes:
            record = record_key(key, node_config)
            while record in generation.nodes:
                record += "'"  # written twice in one upstream: each has a health of its own
            known = old.nodes.get(record) if old is not None else None
            node = generation.nodes[record] = self._node(node_config, record, known)
            nodes.append(node)
            pools.append(self._pool(node_config, config, whole, generation, old))
        policy = health_policy(config, whole)
        upstream = Upstream(
            nodes,
            policy,
            name=config.name,
            retries=config.retries,
            retry_timeout_s=config.retry_timeout_s,
        )
        built = BuiltUpstream(config, upstream, tuple(pools), None)
        if config.is_probed:
            self._build_prober(built, whole)
        if whole.process.account_checks:
            self._build_checker(built, whole)
        return built

    def _node(self, config: NodeConfig, record: str, known: Node | None) -> Node:
        """The known node where nothing of it changed; else another one with the same record."""
        name = config.name or f"{config.host}:{config.port}"
        unchanged = (config.weight, config.priority, name, config.max_in_flight)
        if known is not None and (known.weight, known.priority, known.name, known.max_in_flight) == unchanged:
            return known
        try:
            return Node(
                config.host,
                config.port,
                config.weight,
                config.priority,
                name=name,
                max_in_flight=config.max_in_flight if known is None else known.max_in_flight,
                table=self.table,
                key=record,
            )
        except ValueError as error:
            raise ConfigError(f"node {name}: {error}") from error

    def _tls(self, ca_file: str | None) -> TlsContext:
        """Whom to trust, read anew when the file has changed."""
        stamp: tuple[int, ...] = ()
        if ca_file is not None:
            try:
                status = os.stat(ca_file)
            except OSError as error:
                raise ConfigError(f"cannot read {ca_file}: {error.strerror}") from error
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._next.get(ca_file) or self._contexts.get(ca_file)
        if known is None or known[0] != stamp:
            known = (stamp, TlsContext(ca_file))
        self._next[ca_file] = known
        return known[1]

    def _pool(
        self,
        node: NodeConfig,
        upstream: UpstreamConfig,
        whole: Config,
        generation: Generation,
        old: Generation | None,
    ) -> Pool:
        # The context is part of the key: connections made under another trust are not used again.
        tls, server_name = self._trust(node, upstream, whole)
        settings = PoolSettings(
            size=upstream.keepalive.size,
            idle_timeout_s=upstream.keepalive.idle_timeout_s,
            requests=upstream.keepalive.requests,
        )
        key = (node.host, node.port, tls, server_name, settings)
        pool = generation.pools.get(key)
        if pool is None and old is not None:
            pool = old.pools.get(key)
        if pool is None:
            pool = Pool(
                self.resolver,
                node.host,
                node.port,
                tls=tls,
                server_name=server_name,
                settings=settings,
            )
        generation.pools[key] = pool
        return pool

    def _trust(
        self, node: NodeConfig, upstream: UpstreamConfig, whole: Config
    ) -> tuple[TlsContext | None, str]:
        """How requests to a node are encrypted, and the name that its certificate must have."""
        is_tls = upstream.scheme_of(node) in ("https", "grpcs")
        tls = self._tls(self._ca_file(node, upstream, whole)) if is_tls else None
        if upstream.pass_host == "rewrite" and upstream.upstream_host:
            return tls, split_port(upstream.upstream_host)
        return tls, node.host

    def _ca_file(self, node: NodeConfig, upstream: UpstreamConfig, whole: Config) -> str | None:
        return node.ca_file or upstream.ca_file or whole.process.ca_file or self.ca_file

    def _build_prober(self, built: BuiltUpstream, whole: Config) -> None:
        probed = []
        for node, config in zip(built.upstream.nodes, built.config.nodes, strict=True):
            check = built.config.check_of(config)
            if check is not None:
                probed.append(self._probed(node, config, check, built.config, whole))
        built.probe_pools = tuple(node.pool for node in probed)
        on_result = partial(self.on_probed, built.upstream) if self.on_probed is not None else None
        common = probed[0].settings
        assert common is not None
        built.prober = Prober(built.upstream, tuple(probed), common, on_result)

    def _probed(
        self, node: Node, config: NodeConfig, check: ActiveCheck, upstream: UpstreamConfig, whole: Config
    ) -> ProbedNode:
        """How one node is probed."""
        is_named = not is_ip(config.host)
        host = config.host if is_named or not check.host else check.host
        if upstream.pass_host == "rewrite" and upstream.upstream_host:
            host = upstream.upstream_host
        tls = self._tls(self._ca_file(config, upstream, whole)) if check.type == "https" else None
        pool = Pool(
            self.resolver,
            config.host,
            check.port or config.port,
            tls=tls,
            server_name=host,
        )
        path = check.http_path
        fields = revealed(check.req_headers)
        if config.instance is not None:  # its probes sign in as its requests do
            path = with_query(path, config.auth_query)
            fields += revealed(config.auth_headers)
        request = b""
        if check.type != "tcp":
            request = probe_request(check.http_method, path, _bracketed(host).encode(), fields)
        settings = ProbeSettings(
            is_tcp=check.type == "tcp",
            timeout_s=check.timeout_s,
            healthy_interval_s=check.healthy_interval_s,
            unhealthy_interval_s=check.unhealthy_interval_s,
            healthy_statuses=check.healthy_statuses or frozenset(),
            unhealthy_statuses=check.unhealthy_statuses or frozenset(),
            judges_unlisted=whole.profile is not Profile.APISIX,
            concurrency=check.concurrency,
        )
        return ProbedNode(node, pool, request, settings, active_thresholds(check))

    def _build_checker(self, built: BuiltUpstream, whole: Config) -> None:
        checked = []
        for node, config in zip(built.upstream.nodes, built.config.nodes, strict=True):
            check = config.account
            if check is None:
                continue
            tls, server_name = self._trust(config, built.config, whole)
            host = host_for(config, built.config)
            fields = (
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                *revealed(config.auth_headers),
            )
            models, balance = (
                probe_request("GET", with_query(path, config.auth_query), host, fields) if path else b""
                for path in (check.models_path, check.balance_path)
            )
            checked.append(
                CheckedNode(
                    node,
                    Pool(self.resolver, config.host, config.port, tls=tls, server_name=server_name),
                    models,
                    balance,
                    tuple(dict.fromkeys(model for _, model in config.models if model is not None)),
                    check.interval_s,
                    check.timeout_s,
                )
            )
        if not checked:
            return
        built.probe_pools += tuple(node.pool for node in checked)
        on_checked = partial(self.on_checked, built.upstream) if self.on_checked is not None else None
        built.checker = AccountChecker(built.upstream, tuple(checked), on_checked)

    def _plan(self, route: RouteConfig, built: BuiltUpstream | None, config: Config) -> RoutePlan:
        is_apisix = config.profile is Profile.APISIX
        passthrough = route.passthrough or is_apisix
        upstream = built.config if built is not None else None
        is_llm = upstream is not None and any(node.provider for node in upstream.nodes)
        ai_proxy = upstream.ai_proxy if upstream is not None else None
        fields, dropped, plugins, host = self._plugins(
            route.plugins, config, ai_proxy, passthrough=passthrough, is_llm=is_llm
        )
        links: tuple[NodeLink, ...] = ()
        if built is not None:
            links = tuple(
                self._link(
                    built,
                    position,
                    fields,
                    dropped,
                    host,
                    plugins=route.plugins,
                    passthrough=passthrough,
                    is_llm=is_llm,
                )
                for position in range(len(built.config.nodes))
            )
        retries = upstream.retries if upstream is not None else None
        timeouts = route.timeout or (upstream.timeout if upstream is not None else None)
        fails_over_on_status = not is_apisix
        fallback = None
        if upstream is not None and ai_proxy is not None:
            timeouts = upstream.timeout or route.timeout
            fallback = ai_proxy.fallback
            if fallback is not None:
                fails_over_on_status = True
        process = config.process
        return RoutePlan(
            route.name,
            built.upstream if built is not None else None,
            links,
            plugins=plugins,
            body_plugins=tuple(plugin for plugin in plugins if hasattr(plugin, "on_body")),
            deadlines=deadlines_of(route.deadlines, timeouts),
            is_llm=is_llm,
            replayable=route.replayable if not is_apisix or route.replayable is not None else None,
            replays_uncertain=not is_apisix,
            fails_over_on_status=fails_over_on_status,
            fallback=fallback,
            passthrough=passthrough,
            max_attempts=retries + 1 if retries is not None else None,
            hold_answer_bytes=process.hold_answer_bytes,
            shows_headers=process.response_headers,
            strip_prefix=route.strip_prefix.encode(),
            resumes=is_llm and route.on_stream_failure == "resume",
            moves_too_long=is_llm and route.on_context_length == "move",
            enables_websocket=route.enable_websocket,
            dropped_answer_fields=(*OWN_FIELDS, *(LLM_ANSWER_FIELDS if is_llm else ())),
        )

    def _link(
        self,
        built: BuiltUpstream,
        position: int,
        fields: list[tuple[bytes, bytes]],
        dropped: set[bytes],
        rewritten_host: bytes | None,
        *,
        plugins: tuple[PluginConfig, ...],
        passthrough: bool,
        is_llm: bool,
    ) -> NodeLink:
        upstream = built.config
        node = upstream.nodes[position]
        auth = [(name.lower().encode(), value.encode()) for name, value in revealed(node.auth_headers)]
        auth_names = frozenset(name for name, _ in auth)
        sent = [field for field in fields if field[0] not in auth_names] + auth
        drop = set(dropped) | auth_names | set(OWN_FIELDS) | {b"x-fastgw-*"}
        keep: tuple[bytes, ...] | None = None
        if not passthrough:
            drop |= set(CREDENTIALS)
        if is_llm:
            # The gateway reads the answer's events, so it must not be compressed.
            sent.append((b"accept-encoding", b"identity"))
            drop.add(b"accept-encoding")
            dialect = DIALECTS[node.provider or "openai-compatible"]
            keep = LLM_REQUEST_FIELDS + dialect.fields
            if passthrough:
                keep += LLM_CREDENTIALS + dialect.credentials
            if node.instance is not None:
                sent.append((b"content-type", b"application/json"))
                drop.add(b"content-type")
            if self.forwards_simulator_fields:
                keep += (b"x-sim-*",)
        host = rewritten_host if upstream.pass_host == "pass" else host_for(node, upstream)
        adapter = adapter_for(node)
        prefix_path = ""
        if (
            node.provider
            and adapter.takes("prefix")
            and (node.instance is None or node.instance.path is None)
        ):
            prefix_path = DIALECTS[node.provider].prefix_path
        return NodeLink(
            built.upstream.nodes[position],
            built.pools[position],
            RequestTemplate(host, sent, drop, keep),
            position=position,
            provider=node.provider,
            adapter=adapter,
            call_adapters=(
                {call: adapter_for(node, call) for call in CALLS.values()}
                if node.instance is not None
                else None
            ),
            query=urlencode(revealed(node.auth_query)).encode(),
            paths=paths_of(node.provider or "", node.instance.path) if node.instance is not None else None,
            auth_names=auth_names,
            prefix_target=prefix_path.encode(),
            limits_per_model=node.provider is not None and DIALECTS[node.provider].limits_per_model,
            redactor=Redactor(
                secrets_in(node.auth_headers, node.auth_query, *(plugin.conf for plugin in plugins)),
                by_shape=is_llm,
            ),
        )

    @staticmethod
    def _plugins(
        configs: tuple[PluginConfig, ...],
        config: Config,
        ai_proxy: AiProxyConfig | None,
        *,
        passthrough: bool,
        is_llm: bool,
    ) -> tuple[list[tuple[bytes, bytes]], set[bytes], tuple[Any, ...], bytes | None]:
        """A route's plugins: what they do to every request alike, and the ones that must run.

        Returns (fields to send, client fields to drop, plugins to run, Host to send).
        """
        fields: list[tuple[bytes, bytes]] = []
        dropped: set[bytes] = set()
        running: list[Any] = []
        host: bytes | None = None
        for plugin in configs:
            meta = plugin.conf.get("_meta", {})
            if meta.get("disable"):
                continue
            if plugin.name == "proxy-rewrite":
                rewrite = ProxyRewrite(plugin.conf)
                host = rewrite.host
                if rewrite.is_static:
                    fields, dropped = rewrite.static_edits()
                    continue
                running.append((meta.get("priority", rewrite.priority), rewrite))
            elif plugin.name == "key-auth":
                auth = KeyAuth(
                    plugin.conf,
                    [(consumer.username, consumer.keys) for consumer in config.consumers],
                    hides=not passthrough,  # a client's key is for us
                    tells_node=passthrough or not is_llm,  # a provider need not know who asks
                    errors_like_apisix=config.profile is Profile.APISIX,
                )
                running.append((meta.get("priority", auth.priority), auth))
            elif ai_proxy is not None and plugin.upstream is not None:
                proxy = AiProxy(
                    plugin.name,
                    max_body_bytes=ai_proxy.max_body_bytes,
                    max_stream_s=ai_proxy.max_stream_s,
                    errors_like_apisix=config.profile is Profile.APISIX,
                )
                running.append((meta.get("priority", proxy.priority), proxy))
            else:
                raise ConfigError(f"plugin {plugin.name!r} is not supported")
        running.sort(key=lambda entry: -entry[0])
        return fields, dropped, tuple(plugin for _, plugin in running), host


# --- From configuration values to policies ----------------------------------------------------


def dialect_of(node: NodeConfig) -> Dialect:
    """How a node is spoken to; one whose dialect nobody knows gets what is asked."""
    return DIALECTS[node.dialect or "openai-compatible"]


def adapter_for(node: NodeConfig, call: bytes | None = None) -> Adapter:
    """What is done to the requests of a node.

    Args:
        call: of an instance, the kind of requests: one of ``CALLS``, None for all others.
    """
    written: dict[str, Any] = {}
    instance = node.instance
    if instance is not None:
        kind = next((kind for kind, known in CALLS.items() if known == call), "passthrough")
        written = {
            "options": instance.options,
            "max_tokens": instance.max_tokens if call in LIMITED else None,
            "patch": instance.patches.get(kind),
            "patch_forced": instance.patch_forced,
        }
    return Adapter(
        dialect_of(node),
        ModelMap(node.models) if node.models else None,
        strict=node.strict,
        capabilities=dict(node.capabilities),
        **written,
    )


def call_adapters_for(node: NodeConfig) -> dict[bytes, Adapter] | None:
    """The adapters of an instance for the calls of known kinds; None: the node is none."""
    if node.instance is None:
        return None
    return {call: adapter_for(node, call) for call in CALLS.values()}


def is_ip(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def record_key(upstream: str, node: NodeConfig) -> str:
    """What a node's health belongs to: of its credentials a digest."""
    parts = [upstream, node.host, str(node.port)]
    if node.instance is not None:  # two of them may be at one place with one key, for two models
        parts.append(node.name)
    credentials = []
    for pairs in (node.auth_headers, node.auth_query):
        credentials += [f"{len(pairs)}", *(text for pair in revealed(pairs) for text in pair)]
    digest = sha256("\0".join(credentials).encode("utf-8", "surrogatepass"))
    return "\0".join((*parts, digest.hexdigest()))


def revealed(pairs: Iterable[tuple[str, str | Secret]]) -> tuple[tuple[str, str], ...]:
    """Names and values as they are sent."""
    return tuple((name, reveal(value)) for name, value in pairs)


def split_port(host: str) -> str:
    """A Host without its port; brackets of an IPv6 address stay off."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def host_for(node: NodeConfig, upstream: UpstreamConfig) -> bytes:
    """The Host a node gets: its own name, or the one the upstream writes; a port if unusual."""
    if upstream.pass_host == "rewrite" and upstream.upstream_host:
        return _bracketed(upstream.upstream_host).encode()
    standard = 443 if upstream.scheme_of(node) in ("https", "grpcs") else 80
    name = _bracketed(node.host)
    return (name if node.port == standard else f"{name}:{node.port}").encode()


def _bracketed(host: str) -> str:
    """A result of ``parse_host`` as it stands in a Host."""
    return f"[{host}]" if ":" in host else host


def with_query(path: str, arguments: tuple[tuple[str, Secret], ...]) -> str:
    """A path of our own with a node's query arguments."""
    if not arguments:
        return path
    return f"{path}{'&' if '?' in path else '?'}{urlencode(revealed(arguments))}"


def deadlines_of(deadlines: Deadlines, timeouts: Timeouts | None) -> Deadlines:
    """A route's deadlines; APISIX's ``timeout`` object sets the ones it has a word for."""
    if timeouts is None:
        return deadlines
    return replace(
        deadlines,
        connect_s=timeouts.connect_s,
        node_write_s=timeouts.send_s,
        head_stream_s=timeouts.read_s,
        head_s=timeouts.read_s,
        idle_s=timeouts.read_s,
        tunnel_idle_s=timeouts.read_s,
    )


def health_policy(upstream: UpstreamConfig, config: Config) -> HealthPolicy:
    """An upstream's checks as the policy of its health."""
    is_apisix = config.profile is Profile.APISIX
    passive = upstream.passive
    policy = HealthPolicy(
        dead_reprobe_s=config.process.dead_reprobe_s,
        dead_reprobe_max_s=10 * config.process.dead_reprobe_s,
        cooling_max_s=config.process.cooling_max_s,
        slow_start_s=config.process.slow_start_s,
    )
    checks = [check for check in map(upstream.check_of, upstream.nodes) if check is not None]
    if checks:
        intervals = [max(check.healthy_interval_s, check.unhealthy_interval_s) for check in checks]
        policy = replace(
            policy,
            active=active_thresholds(checks[0]),
            probe_hold_s=max(30.0, 3 * max(intervals)),
        )
    if passive is not None:
        policy = replace(
            policy,
            passive=Thresholds(
                successes=passive.successes,
                http_failures=passive.http_failures,
                tcp_failures=passive.tcp_failures,
                timeouts=passive.timeouts,
            ),
            passive_success_statuses=passive.healthy_statuses,
            passive_failure_statuses=passive.unhealthy_statuses,
            eject_on_connect_failure=passive.connect_failure_ejects,
            rate_percent=0,  # thresholds that were written replace the built-in rule
        )
    if is_apisix:
        policy = replace(
            policy,
            passive=policy.passive if passive is not None else None,
            eject_on_connect_failure=False,
            rate_percent=0,
            panic="all",
            trials=False,
            heal_by_probe_only_after_trial=False,
        )
    return policy


def active_thresholds(check: ActiveCheck) -> Thresholds:
    return Thresholds(
        successes=check.successes,
        http_failures=check.http_failures,
        tcp_failures=check.tcp_failures,
        timeouts=check.timeouts,
    )
