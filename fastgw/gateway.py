"""The composition root: from a configuration to routes, upstreams and connections.

Only this module knows both the configuration and the objects. A configuration is built whole
beside the running one, as a ``Generation``, and swapped in one assignment; requests in flight
finish on the generation they began with. Nodes that did not change keep their health and their
idle connections.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any
from urllib.parse import urlencode

from ._core import Node
from .access_log import AccessLog, Entry
from .balancing.deadlines import Deadlines
from .balancing.health import HealthPolicy, Thresholds
from .balancing.upstream import Upstream
from .config.model import (
    ActiveCheck,
    Config,
    NodeConfig,
    PluginConfig,
    Profile,
    RouteConfig,
    Timeouts,
    UpstreamConfig,
)
from .errors import ConfigError, FastgwError
from .llm.dialect import ModelMap
from .llm.usage import Usage, usage_of
from .plugins.key_auth import KeyAuth
from .plugins.proxy_rewrite import ProxyRewrite
from .proxy.exchange import Exchange
from .proxy.exchanges import Exchanges
from .proxy.phases import Dispatcher
from .proxy.plan import NodeLink, RoutePlan
from .proxy.probe import ProbedNode, Prober, ProbeSettings, probe_request
from .routing import Route, RouteTable
from .server import Address, Server, Ticker
from .wire.client_connection import ClientConnection, Listener
from .wire.head import Limits, RequestHead, RequestTemplate
from .wire.pool import Pool, PoolSettings
from .wire.resolver import Resolver
from .wire.tls import TlsContext

logger = logging.getLogger("fastgw.gateway")

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
# What of it goes to an LLM provider at all.
LLM_REQUEST_FIELDS = (
    b"accept",
    b"accept-language",
    b"content-type",
    b"idempotency-key",
    b"openai-beta",
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


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line adds to a configuration."""

    listen: tuple[str, ...] = ("127.0.0.1:9080",)
    admin: str | None = "127.0.0.1:9180"
    connect_to: tuple[tuple[str, int, str, int], ...] = ()
    ca_file: str | None = None
    forwards_simulator_fields: bool = False  # the upstreams are the built-in simulation


@dataclass(slots=True)
class BuiltUpstream:
    """One upstream of a generation."""

    config: UpstreamConfig
    upstream: Upstream
    pools: tuple[Pool, ...]
    prober: Prober | None
    probe_pools: tuple[Pool, ...] = ()
    route_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Generation:
    """One configuration, built."""

    number: int
    config: Config
    table: RouteTable
    upstreams: dict[str, BuiltUpstream]
    nodes: dict[tuple[str, str, int], Node]
    pools: dict[tuple[Any, ...], Pool]

    def __repr__(self) -> str:
        return f"<Generation {self.number} routes={len(self.table.routes)} upstreams={len(self.upstreams)}>"


class Gateway:
    """A whole gateway in one process.

    Args:
        config: the first configuration.
        settings: addresses and the like.
        reload_config: loads the configuration again; raises ConfigError. None: reload is refused.
        access_log: where finished requests are written, or None.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings | None = None,
        *,
        reload_config: Callable[[], Config] | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        process = config.process
        self.settings = settings or Settings()
        self.reload_config = reload_config
        self.access_log = access_log
        self.server = Server()
        self.addresses: list[Address] = []
        self.started_at = time.time()
        self.last_reload_ok = True
        self.last_reload_error = ""
        self.reloads = 0
        self.is_draining = False
        self.answered = 0
        self.exchanges = Exchanges(
            self._on_finished,
            hold_body_bytes=process.hold_body_bytes,
            hold_total_bytes=process.hold_total_bytes,
            max_body_bytes=process.max_body_bytes,
        )
        self._config = config
        self._contexts: dict[str | None, tuple[tuple[int, ...], TlsContext]] = {}
        self.resolver: Resolver | None = None
        self.generation: Generation | None = None
        self.dispatcher: Dispatcher | None = None
        self.listener: Listener | None = None
        self.ticker: Ticker | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._retired_pools: list[Pool] = []

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build the configuration, listen, and begin to probe.

        Raises:
            ConfigError: the configuration cannot be built.
            ListenFailed: an address cannot be listened on.
        """
        config = self._config
        process = config.process
        self.resolver = Resolver(connect_to=(*self.settings.connect_to, *process.connect_to))
        generation = self._build(config, None)
        self.generation = generation
        self.dispatcher = Dispatcher(
            self.exchanges,
            generation.table,
            on_answered=self._on_answered,
            errors_like_apisix=config.profile is Profile.APISIX,
        )
        self.listener = Listener(
            self.dispatcher.accept,
            self.dispatcher.refuse,
            limits=Limits(16 * 1024, process.max_head_bytes, process.max_fields),
            max_connections=process.max_connections,
            head_timeout_s=process.head_timeout_s,
            body_stall_s=process.body_stall_s,
            keepalive_s=process.keepalive_s,
        )
        listen = process.listen or self.settings.listen
        try:
            for text in listen:
                self.addresses.append(await self.server.listen(Address.parse(text), self.listener))
        except BaseException:
            self.server.stop_accepting()
            self.resolver.close()
            raise
        self.ticker = Ticker([self._sweep], self._is_busy)
        self.ticker.start()
        self._start_probes(generation)

    def _is_busy(self) -> bool:
        return bool(self.exchanges.live) or self.server.connections() > 0 or self._idle_connections() > 0

    def _idle_connections(self) -> int:
        assert self.generation is not None
        return sum(len(pool.idle) for pool in self.generation.pools.values())

    def _sweep(self, now: float) -> None:
        self.exchanges.sweep(now)
        for listener in self.server.listeners:
            listener.sweep(now)
        assert self.generation is not None
        for pool in self.generation.pools.values():
            pool.sweep(now)
        if self._retired_pools:
            self._retired_pools = [pool for pool in self._retired_pools if pool.busy or pool.dials]

    def _start_probes(self, generation: Generation) -> None:
        for built in generation.upstreams.values():
            if built.prober is not None:
                built.prober.start()

    async def drain(self, limit_s: float | None = None) -> bool:
        """Stop accepting, let requests finish inside the limit, end the rest honestly.

        Returns True if nothing had to be interrupted.
        """
        self.is_draining = True
        limit = self._config.process.drain_s if limit_s is None else limit_s
        self.server.stop_accepting()
        deadline = monotonic() + limit
        while self.exchanges.live and monotonic() < deadline:
            await asyncio.sleep(0.02)
        clean = not self.exchanges.live
        if not clean:
            logger.warning("drain limit reached: interrupting %d requests", len(self.exchanges.live))
            self.exchanges.interrupt_all()
        # What was written last is still on its way to the clients.
        while self.server.clients() and monotonic() < deadline + 1.0:
            await asyncio.sleep(0.02)
        return clean

    async def close(self) -> None:
        """End everything at once."""
        if self.ticker is not None:
            self.ticker.stop()
        self.server.stop_accepting()
        self.exchanges.interrupt_all()
        self.server.abort()
        for task in self._background:
            task.cancel()
        if self.generation is not None:
            await self._retire(self.generation, keep=set())
            for pool in [*self.generation.pools.values(), *self._retired_pools]:
                pool.abort()
        if self.resolver is not None:
            self.resolver.close()
        await asyncio.sleep(0)  # connection_lost of what was aborted

    # --- Reload -------------------------------------------------------------------------------

    def reload(self) -> bool:
        """Load the configuration again and swap it in. False: it was refused, nothing changed."""
        if self.reload_config is None:
            self.last_reload_error = "there is no file to load again"
            return False
        try:
            config = self.reload_config()
            self.apply(config)
        except (FastgwError, OSError, ValueError) as error:
            self.last_reload_ok = False
            self.last_reload_error = str(error)
            logger.error("reload refused, the running configuration stays:\n%s", error)
            return False
        self.last_reload_ok = True
        self.last_reload_error = ""
        logger.info("configuration reloaded: %r", self.generation)
        return True

    def apply(self, config: Config) -> None:
        """Build a configuration beside the running one, then swap. Raises ConfigError."""
        old = self.generation
        assert old is not None and self.dispatcher is not None
        generation = self._build(config, old)
        self.generation = generation
        self.dispatcher.table = generation.table
        self.dispatcher.errors_like_apisix = config.profile is Profile.APISIX
        fixed = ("listen", "admin", "max_connections", "max_head_bytes", "max_fields", "keepalive_s")
        if changed := [n for n in fixed if getattr(config.process, n) != getattr(self._config.process, n)]:
            logger.warning("changed, and in force after a restart only: %s", ", ".join(changed))
        self._config = config
        process = config.process
        self.exchanges.hold_body_bytes = process.hold_body_bytes
        self.exchanges.hold_total_bytes = process.hold_total_bytes
        self.exchanges.max_body_bytes = process.max_body_bytes
        self.reloads += 1
        task = asyncio.get_running_loop().create_task(
            self._change_over(old, set(generation.pools.values()), generation)
        )
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _change_over(self, old: Generation, keep: set[Pool], new: Generation) -> None:
        await self._retire(old, keep)
        if self.generation is new:
            self._start_probes(new)

    async def _retire(self, generation: Generation, keep: set[Pool]) -> None:
        """Stop a generation's probes and close the connections nobody else uses."""
        for built in generation.upstreams.values():
            if built.prober is not None:
                await built.prober.stop()
            for pool in built.probe_pools:
                pool.abort()
        for pool in generation.pools.values():
            if pool not in keep:
                pool.close()
                self._retired_pools.append(pool)

    # --- Building -----------------------------------------------------------------------------

    def _build(self, config: Config, old: Generation | None) -> Generation:
        """Everything a configuration says, as objects. Touches nothing that runs."""
        number = old.number + 1 if old is not None else 1
        generation = Generation(number, config, RouteTable(()), {}, {}, {})
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
        generation.table = RouteTable(routes)
        return generation

    def _upstream_of(
        self, route: RouteConfig, config: Config, generation: Generation, old: Generation | None
    ) -> BuiltUpstream | None:
        upstream = route.upstream
        if upstream is None:
            return None
        # An upstream that is written inside a route or a service has the id of that one, and an own
        # one may have the same: they must not be taken for each other.
        owner = upstream.mark.path.partition("[")[0] if upstream.mark is not None else "upstreams"
        key = f"/{owner}/{upstream.id or upstream.name}"
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
            node_key = (key, node_config.host, node_config.port)
            known = old.nodes.get(node_key) if old is not None else None
            if old is not None and has_new_key(key, node_config, old):
                known = None  # what was found out about the old key says nothing of this one
            node = self._node(node_config, known)
            generation.nodes[node_key] = node
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
        if config.active is not None:
            self._build_prober(built, whole)
        return built

    @staticmethod
    def _node(config: NodeConfig, known: Node | None) -> Node:
        """The kernel's node: the known one where nothing of it changed, so its health stays."""
        name = config.name or f"{config.host}:{config.port}"
        unchanged = (config.weight, config.priority, name, config.max_in_flight)
        if known is not None and (known.weight, known.priority, known.name, known.max_in_flight) == unchanged:
            return known
        return Node(
            config.host,
            config.port,
            config.weight,
            config.priority,
            name=name,
            max_in_flight=config.max_in_flight,
            record_of=known,
        )

    def _tls(self, ca_file: str | None) -> TlsContext:
        """Whom to trust, read anew when the file has changed."""
        stamp: tuple[int, ...] = ()
        if ca_file is not None:
            try:
                status = os.stat(ca_file)
            except OSError as error:
                raise ConfigError(f"cannot read {ca_file}: {error.strerror}") from error
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._contexts.get(ca_file)
        if known is None or known[0] != stamp:
            known = self._contexts[ca_file] = (stamp, TlsContext(ca_file))
        return known[1]

    def _pool(
        self,
        node: NodeConfig,
        upstream: UpstreamConfig,
        whole: Config,
        generation: Generation,
        old: Generation | None,
    ) -> Pool:
        assert self.resolver is not None
        is_tls = upstream.scheme in ("https", "grpcs")
        # The context is part of the key: connections made under another trust are not used again.
        tls = self._tls(self._ca_file(node, upstream, whole)) if is_tls else None
        server_name = node.host
        if upstream.pass_host == "rewrite" and upstream.upstream_host:
            server_name = split_port(upstream.upstream_host)
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

    def _ca_file(self, node: NodeConfig, upstream: UpstreamConfig, whole: Config) -> str | None:
        return node.ca_file or upstream.ca_file or whole.process.ca_file or self.settings.ca_file

    def _build_prober(self, built: BuiltUpstream, whole: Config) -> None:
        check = built.config.active
        assert check is not None and self.resolver is not None
        is_apisix = whole.profile is Profile.APISIX
        probed = []
        for node, config in zip(built.upstream.nodes, built.config.nodes, strict=True):
            is_named = not is_ip(config.host)
            host = config.host if is_named or not check.host else check.host
            if built.config.pass_host == "rewrite" and built.config.upstream_host:
                host = built.config.upstream_host
            tls = self._tls(self._ca_file(config, built.config, whole)) if check.type == "https" else None
            pool = Pool(
                self.resolver,
                config.host,
                check.port or config.port,
                tls=tls,
                server_name=host.partition(":")[0],
            )
            request = probe_request(check.http_method, check.http_path, host.encode(), check.req_headers)
            probed.append(ProbedNode(node, pool, b"" if check.type == "tcp" else request))
        settings = ProbeSettings(
            is_tcp=check.type == "tcp",
            timeout_s=check.timeout_s,
            healthy_interval_s=check.healthy_interval_s,
            unhealthy_interval_s=check.unhealthy_interval_s,
            healthy_statuses=check.healthy_statuses or frozenset(),
            unhealthy_statuses=check.unhealthy_statuses or frozenset(),
            judges_unlisted=not is_apisix,
            concurrency=check.concurrency,
        )
        built.probe_pools = tuple(node.pool for node in probed)
        built.prober = Prober(built.upstream, tuple(probed), settings)

    def _plan(self, route: RouteConfig, built: BuiltUpstream | None, config: Config) -> RoutePlan:
        is_apisix = config.profile is Profile.APISIX
        passthrough = route.passthrough or is_apisix
        upstream = built.config if built is not None else None
        is_llm = upstream is not None and any(node.provider for node in upstream.nodes)
        fields, dropped, plugins, host = self._plugins(
            route.plugins, config, passthrough=passthrough, is_llm=is_llm
        )
        links: tuple[NodeLink, ...] = ()
        if built is not None:
            links = tuple(
                self._link(built, position, fields, dropped, host, passthrough=passthrough, is_llm=is_llm)
                for position in range(len(built.config.nodes))
            )
        retries = upstream.retries if upstream is not None else None
        timeouts = route.timeout or (upstream.timeout if upstream is not None else None)
        process = config.process
        return RoutePlan(
            route.name,
            built.upstream if built is not None else None,
            links,
            plugins=plugins,
            deadlines=deadlines_of(route.deadlines, timeouts),
            is_llm=is_llm,
            replayable=route.replayable if not is_apisix or route.replayable is not None else None,
            replays_uncertain=not is_apisix,
            fails_over_on_status=not is_apisix,
            passthrough=passthrough,
            max_attempts=retries + 1 if retries is not None else None,
            hold_answer_bytes=process.hold_answer_bytes,
            shows_headers=process.response_headers,
            strip_prefix=route.strip_prefix.encode(),
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
        passthrough: bool,
        is_llm: bool,
    ) -> NodeLink:
        upstream = built.config
        node = upstream.nodes[position]
        auth = [(name.lower().encode(), value.encode()) for name, value in node.auth_headers]
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
            keep = LLM_REQUEST_FIELDS + (CREDENTIALS if passthrough else ())
            if self.settings.forwards_simulator_fields:
                keep += (b"x-sim-*",)
        host = rewritten_host if upstream.pass_host == "pass" else host_for(node, upstream)
        return NodeLink(
            built.upstream.nodes[position],
            built.pools[position],
            RequestTemplate(host, sent, drop, keep),
            position=position,
            provider=node.provider,
            models=ModelMap(node.models) if node.models else None,
            query=urlencode(node.auth_query).encode(),
            auth_names=auth_names,
        )

    @staticmethod
    def _plugins(
        configs: tuple[PluginConfig, ...], config: Config, *, passthrough: bool, is_llm: bool
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
            else:
                raise ConfigError(f"plugin {plugin.name!r} is not supported")
        running.sort(key=lambda entry: -entry[0])
        return fields, dropped, tuple(plugin for _, plugin in running), host

    # --- Log ----------------------------------------------------------------------------------

    def _on_finished(self, exchange: Exchange) -> None:
        log = self.access_log
        if log is None:
            return
        now = monotonic()
        usage = usage_in(exchange)
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        log.record(
            Entry(
                time=time.time(),
                request_id=exchange.request_id.decode("latin-1"),
                client=exchange.client.peer_address(),
                method=exchange.head.method.decode("latin-1"),
                path=exchange.head.path.decode("latin-1"),
                route=exchange.plan.name,
                status=exchange.status,
                bytes=exchange.sent_bytes,
                duration_s=now - exchange.started_at,
                ttft_s=exchange.first_content_at - exchange.started_at if exchange.first_content_at else None,
                model_asked=exchange.facts.model if exchange.facts is not None else None,
                model_used=usage.model,
                tokens=None if prompt is None or completion is None else (prompt, completion),
                attempts=tuple(exchange.records),
                consumer=exchange.consumer,
                note=exchange.note or None,
            )
        )

    def _on_answered(
        self,
        connection: ClientConnection,
        head: RequestHead | None,
        request_id: bytes,
        route: str,
        status: int,
        sent: int,
        note: str,
    ) -> None:
        self.answered += 1
        if self.access_log is None:
            return
        self.access_log.record(
            Entry(
                time=time.time(),
                request_id=request_id.decode("latin-1"),
                client=connection.peer_address(),
                method=head.method.decode("latin-1") if head is not None else "-",
                path=head.path.decode("latin-1") if head is not None else "-",
                route=route,
                status=status,
                bytes=sent,
                duration_s=0.0,
                ttft_s=None,
                model_asked=None,
                model_used=None,
                tokens=None,
                attempts=(),
                consumer=None,
                note=note or None,
            )
        )

    # --- What is going on ---------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Would a request be served now? Not while draining, nor with every node out."""
        if self.is_draining or self.generation is None:
            return False
        now = monotonic()
        return all(
            any(node.is_available(now) for node in built.upstream.nodes)
            for built in self.generation.upstreams.values()
        )

    def flush_pools(self) -> int:
        """Close all idle connections to nodes; returns how many there were."""
        assert self.generation is not None
        closed = self._idle_connections()
        for pool in self.generation.pools.values():
            pool.flush()
        return closed

    def counts(self) -> dict[str, Any]:
        """Figures that must come back to their baseline when nothing goes on."""
        generation = self.generation
        pools = generation.pools.values() if generation is not None else ()
        return {
            "tasks": len(asyncio.all_tasks()),
            "timers": set_timers(),
            "exchanges": len(self.exchanges.live),
            "client_connections": self.server.clients(),
            "node_connections": {
                name: sum(pool.counts()[name] for pool in pools) for name in ("idle", "busy", "dialling")
            },
            "node_connections_opened": sum(pool.opened for pool in pools),
            "node_connections_reused": sum(pool.reused for pool in pools),
            "held_bytes": self.exchanges.held_bytes,
            "requests": self.exchanges.started,
            "answered_without_exchange": self.answered,
            "retries": self.exchanges.retries,
            "uncertain_replays": self.exchanges.uncertain_replays,
            "stale_reuses": self.exchanges.stale_reuses,
            "streams_interrupted": self.exchanges.interrupted,
            "malformed_events": self.exchanges.malformed_events,
            "clients_gone": self.exchanges.client_gone,
            "bodies_not_held": self.exchanges.unmovable,
            "reloads": self.reloads,
            "generation": generation.number if generation is not None else 0,
            "objects": len(gc.get_objects()),
            "log_dropped": self.access_log.dropped if self.access_log is not None else 0,
        }


def usage_in(exchange: Exchange) -> Usage:
    """What the answer of a finished exchange said it cost; read for the log only."""
    if not exchange.plan.is_llm or not 200 <= exchange.status < 300:
        return Usage()
    scanner = exchange.relay.scanner if exchange.relay is not None else None
    if scanner is None:
        return usage_of(exchange.answer or b"")
    usage = usage_of(scanner.usage_data or b"")
    return replace(usage, model=scanner.model or usage.model)


def set_timers() -> int:
    """Timers that are set. uvloop has no list of its own, but each of them is an object."""
    return sum(
        1 for item in gc.get_objects() if type(item).__name__ == "TimerHandle" and not item.cancelled()
    )


# --- From configuration values to policies ----------------------------------------------------


def is_ip(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def has_new_key(upstream: str, node: NodeConfig, old: Generation) -> bool:
    """Are the node's credentials others than they were?"""
    built = old.upstreams.get(upstream)
    if built is None:
        return False
    return any(
        (known.host, known.port) == (node.host, node.port)
        and (known.auth_headers, known.auth_query) != (node.auth_headers, node.auth_query)
        for known in built.config.nodes
    )


def split_port(host: str) -> str:
    """A Host without its port; brackets of an IPv6 address stay off."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def host_for(node: NodeConfig, upstream: UpstreamConfig) -> bytes:
    """The Host a node gets: its own name, or the one the upstream writes; a port if unusual."""
    if upstream.pass_host == "rewrite" and upstream.upstream_host:
        return upstream.upstream_host.encode()
    standard = 443 if upstream.scheme in ("https", "grpcs") else 80
    name = f"[{node.host}]" if ":" in node.host else node.host
    return (name if node.port == standard else f"{name}:{node.port}").encode()


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
    )


def health_policy(upstream: UpstreamConfig, config: Config) -> HealthPolicy:
    """An upstream's checks as the policy of its health."""
    is_apisix = config.profile is Profile.APISIX
    passive = upstream.passive
    policy = HealthPolicy(
        dead_reprobe_s=config.process.dead_reprobe_s,
        dead_reprobe_max_s=10 * config.process.dead_reprobe_s,
        cooling_max_s=config.process.cooling_max_s,
    )
    if upstream.active is not None:
        intervals = (upstream.active.healthy_interval_s, upstream.active.unhealthy_interval_s)
        policy = replace(
            policy,
            active=active_thresholds(upstream.active),
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
