"""The composition root: a configuration's objects, listening, sweeping, probing and reloading.

A configuration is built whole beside the running one, as a ``Generation``, and swapped in one
assignment; requests in flight finish on the generation they began with. Nodes that did not change
keep their health and their idle connections.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .access_log import AccessLog, Entry
from .balancing.retry import RetryBudget
from .config.model import Config, ProcessConfig, Profile
from .errors import FastgwError, Overloaded
from .generation import Builder, Generation
from .llm.body import scan
from .llm.usage import Usage
from .memory import MemoryLimit, Pressure
from .metrics import Recorder
from .proxy.answering import Answering
from .proxy.exchanges import Exchanges
from .proxy.phases import Dispatcher
from .server import Address, Certificate, Server, Ticker
from .shared_state import SharedState
from .wire.client_connection import ClientConnection, Listener
from .wire.head import Limits, RequestHead
from .wire.pool import Pool
from .wire.resolver import Resolver

logger = logging.getLogger("fastgw.gateway")

MEMORY_S = 0.25  # between two looks at how much memory is taken
EVICTED_AT_ONCE = 50  # idle connections, in one of these looks
ELECTION_S = 0.5  # between two attempts of a worker to become the one that probes


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line adds to a configuration."""

    listen: tuple[str, ...] = ("127.0.0.1:9080",)
    admin: str | None = "127.0.0.1:9180"
    connect_to: tuple[tuple[str, int, str, int], ...] = ()
    ca_file: str | None = None
    forwards_simulator_fields: bool = False  # the upstreams are the built-in simulation


class Gateway:
    """A whole gateway in one process.

    Args:
        config: the first configuration.
        settings: addresses and the like.
        reload_config: loads the configuration again; raises ConfigError. None: reload is refused.
        access_log: where finished requests are written, or None.
        shared: what it shares with other workers; None: nothing.
        inherited: listening sockets that were made for it, by the address that was asked for.
        announce_reload: told of every configuration that ``reload`` has swapped in.
        number: of the first generation.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings | None = None,
        *,
        reload_config: Callable[[], Config] | None = None,
        access_log: AccessLog | None = None,
        shared: SharedState | None = None,
        inherited: Iterable[tuple[Address, socket.socket]] = (),
        announce_reload: Callable[[Config], None] | None = None,
        number: int = 1,
    ) -> None:
        process = config.process
        self.settings = settings or Settings()
        self.reload_config = reload_config
        self.access_log = access_log
        self.shared = shared or SharedState()
        self.announce_reload = announce_reload
        on_counted = self._on_finished if access_log is not None else None
        self.recorder = Recorder(self.shared.metric_series(), on_counted)
        self.server = Server(inherited)
        self.addresses: list[Address] = []
        self.started_at = time.time()
        self.last_reload_ok = True
        self.last_reload_error = ""
        self.reloads = 0
        self.is_draining = False
        self.is_prober = False  # the one of all workers that probes
        self.answered = 0
        self.exchanges = Exchanges(
            self.recorder.on_finished,
            hold_body_bytes=process.hold_body_bytes,
            hold_total_bytes=process.hold_total_bytes,
            max_body_bytes=process.max_body_bytes,
            budget=retry_budget(process),
        )
        self._config = config
        self._first_number = number
        self._builder: Builder | None = None
        self._election_due = 0.0
        self.resolver: Resolver | None = None
        self.generation: Generation | None = None
        self.dispatcher: Dispatcher | None = None
        self.listener: Listener | None = None
        self.certificate: Certificate | None = None
        self.ticker: Ticker | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._retired_pools: list[Pool] = []
        self._count_due = 0.0
        self.memory = MemoryLimit(process.memory_limit)
        self._memory_due = 0.0

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
        self._builder = Builder(
            self.resolver,
            self.shared.node_table(),
            ca_file=self.settings.ca_file,
            forwards_simulator_fields=self.settings.forwards_simulator_fields,
            on_probed=self.recorder.probed,
            on_checked=self.recorder.checked,
        )
        generation = self._builder.build(config, None, number=self._first_number)
        self.recorder.register(route.plan for route in generation.table.routes)
        self.generation = generation
        self._follow_names(generation)
        self.dispatcher = Dispatcher(
            self.exchanges,
            generation.table,
            on_answered=self._on_answered,
            errors_like_apisix=config.profile is Profile.APISIX,
        )
        self.listener = Listener(
            self.dispatcher.accept,
            self.dispatcher.refuse,
            limits=Limits(process.max_line_bytes, process.max_head_bytes, process.max_fields),
            max_connections=process.max_connections,
            max_connections_per_client=process.max_connections_per_client,
            head_timeout_s=process.head_timeout_s,
            body_stall_s=process.body_stall_s,
            min_body_rate=process.min_body_rate,
            keepalive_s=process.keepalive_s,
        )
        listen = process.listen or self.settings.listen
        if (tls := process.tls) is not None:
            self.certificate = Certificate(tls.certificate, tls.key, tls.min_version)
        try:
            for text in listen:
                address = await self.server.listen(
                    Address.parse(text), self.listener, certificate=self.certificate
                )
                self.addresses.append(address)
        except BaseException:
            self.server.stop_accepting()
            self.resolver.close()
            raise
        self.ticker = Ticker([self._sweep, self.server.sweep], self._is_busy, on_tick=self._on_tick)
        self.ticker.start()

    def _is_busy(self) -> bool:
        return bool(self.exchanges.live) or self.server.connections() > 0 or self._idle_connections() > 0

    def _idle_connections(self) -> int:
        assert self.generation is not None
        return sum(len(pool.idle) for pool in self.generation.pools.values())

    def _sweep(self, now: float) -> bool:
        self.exchanges.sweep(now)
        assert self.generation is not None
        for pool in self.generation.pools.values():
            pool.sweep(now)
        if self._retired_pools:
            self._retired_pools = [pool for pool in self._retired_pools if pool.busy or pool.dials]
        if now >= self._count_due:  # for the other workers' scrapes; one of our own looks itself
            self._count_due = now + 1.0
            self.count_for_metrics()
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_S
            self._mind_memory(now)
        return True

    def _mind_memory(self, now: float) -> None:
        """Near the limit: no new requests, nothing kept that is idle; at it, fewer streams."""
        assert self.dispatcher is not None and self.listener is not None
        before = self.memory.pressure
        pressure = self.memory.look(now)
        if pressure != before:
            self._say_pressure(pressure)
            self.recorder.set_overloaded(pressure != Pressure.NONE)
        # With no request under way there is none whose end could make room: refusing would not help.
        is_refusing = pressure != Pressure.NONE and bool(self.exchanges.live)
        self.dispatcher.refusal = Overloaded() if is_refusing else None
        if pressure != Pressure.NONE:
            self.flush_pools()
            for _ in range(EVICTED_AT_ONCE):
                if not self.listener.evict_idle(now):
                    break
        if pressure == Pressure.CRITICAL and (ended := self.exchanges.shed()):
            logger.error("short of memory: ended the %d slowest answers", ended)

    def _say_pressure(self, pressure: Pressure) -> None:
        taken, limit = self.memory.resident_bytes >> 20, self.memory.limit >> 20
        if pressure == Pressure.NONE:
            logger.warning("new requests are taken again: %d of %d MiB of memory are taken", taken, limit)
        else:
            logger.warning("new requests are refused: %d of %d MiB of memory are taken", taken, limit)

    def count_for_metrics(self) -> None:
        """Bring this process's part of the metrics that are not counted request by request up to date."""
        assert self.generation is not None
        pools = [*self.generation.pools.values(), *self._retired_pools]
        self.recorder.set_connections(
            clients=self.server.clients(),
            requests=len(self.exchanges.live),
            busy=sum(len(pool.busy) for pool in pools),
            idle=sum(len(pool.idle) for pool in pools),
            dialling=sum(len(pool.dials) for pool in pools),
        )
        self.recorder.count_defences(**self._defences())

    def _defences(self) -> dict[str, int]:
        """How often this process has done what it does where something is short."""
        listeners = set(self.server.listeners)
        return {
            "slow_evicted": sum(listener.slow_evicted for listener in listeners),
            "idle_evicted": sum(listener.idle_evicted for listener in listeners),
            "accept_pauses": self.server.pauses,
            "stale_reuses": self.exchanges.stale_reuses,
            "log_dropped": self.access_log.dropped if self.access_log is not None else 0,
        }

    def _on_tick(self, now: float) -> None:
        """Show that we live; become the prober if nobody is."""
        self.shared.beat(now)
        if self.is_prober or now < self._election_due:
            return
        self._election_due = now + ELECTION_S
        if self.shared.may_probe():
            self.is_prober = True
            assert self.generation is not None
            self._start_probes(self.generation)

    def _follow_names(self, generation: Generation) -> None:
        """Resolve the names of all nodes before anybody waits for them, and no others any longer."""
        assert self.resolver is not None
        pools = {*generation.pools.values()}
        for built in generation.upstreams.values():
            pools.update(built.probe_pools)
        places = {(pool.host, pool.port) for pool in pools}
        self.resolver.retain(places)
        for host, port in places:
            self.resolver.watch(host, port)

    def _start_probes(self, generation: Generation) -> None:
        for built in generation.upstreams.values():
            for watch in built.watches():
                watch.start()

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
        except (FastgwError, OSError, ValueError) as error:
            return self._refuse_reload(error)
        if not self.take(config):
            return False
        if self.announce_reload is not None:
            self.announce_reload(config)
        return True

    def take(self, config: Config, number: int | None = None) -> bool:
        """As ``reload``, with a configuration that is loaded already; ``number`` of its generation."""
        try:
            self.apply(config, number)
        except (FastgwError, OSError, ValueError) as error:
            return self._refuse_reload(error)
        self.last_reload_ok = True
        self.recorder.set_reload(True)
        self.last_reload_error = ""
        logger.info("configuration reloaded: %r", self.generation)
        return True

    def reload_was_refused(self, error: str) -> None:
        """Show that the last reload was refused, here or before it came here."""
        self.last_reload_ok = False
        self.recorder.set_reload(False)
        self.last_reload_error = error

    def _refuse_reload(self, error: Exception) -> bool:
        self.reload_was_refused(str(error))
        logger.error("reload refused, the running configuration stays:\n%s", error)
        return False

    def apply(self, config: Config, number: int | None = None) -> None:
        """Build a configuration beside the running one, then swap. Raises ConfigError."""
        old = self.generation
        assert old is not None and self.dispatcher is not None and self._builder is not None
        tls = config.process.tls
        # What may be refused comes first.
        certificate = Certificate(tls.certificate, tls.key, tls.min_version) if tls is not None else None
        generation = self._builder.build(config, old, number=number or old.number + 1)
        self.recorder.register(route.plan for route in generation.table.routes)
        self.generation = generation
        self.dispatcher.table = generation.table
        self.dispatcher.errors_like_apisix = config.profile is Profile.APISIX
        fixed = (
            *("listen", "admin", "max_connections", "max_connections_per_client"),
            *("max_line_bytes", "max_head_bytes", "max_fields", "min_body_rate", "keepalive_s"),
        )
        if changed := [n for n in fixed if getattr(config.process, n) != getattr(self._config.process, n)]:
            logger.warning("changed, and in force after a restart only: %s", ", ".join(changed))
        if (self.certificate is None) != (certificate is None):
            logger.warning("fastgw.tls was added or taken out: that is in force after a restart only")
        elif self.certificate is not None and certificate is not None:
            self.certificate.show(certificate)
        self._config = config
        process = config.process
        self.exchanges.hold_body_bytes = process.hold_body_bytes
        self.exchanges.hold_total_bytes = process.hold_total_bytes
        self.exchanges.max_body_bytes = process.max_body_bytes
        self.memory.limit = process.memory_limit
        if process.retry_budget_percent != old.config.process.retry_budget_percent:
            self.exchanges.budget = retry_budget(process)
        self._follow_names(generation)
        kept = set(generation.nodes.values())
        self.exchanges.dead_nodes = {
            node: why for node, why in self.exchanges.dead_nodes.items() if node in kept
        }
        self.reloads += 1
        task = asyncio.get_running_loop().create_task(
            self._change_over(old, set(generation.pools.values()), generation)
        )
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _change_over(self, old: Generation, keep: set[Pool], new: Generation) -> None:
        await self._retire(old, keep)
        if self.generation is new and self.is_prober:
            self._start_probes(new)

    async def _retire(self, generation: Generation, keep: set[Pool]) -> None:
        """Stop a generation's probes and close the connections nobody else uses."""
        for built in generation.upstreams.values():
            for watch in built.watches():
                await watch.stop()
            for pool in built.probe_pools:
                pool.abort()
        for pool in generation.pools.values():
            if pool not in keep:
                pool.close()
                self._retired_pools.append(pool)

    # --- Log ----------------------------------------------------------------------------------

    def _on_finished(self, exchange: Answering, usage: Usage | None) -> None:
        log = self.access_log
        assert log is not None
        now = monotonic()
        tokens = (usage.prompt, usage.completion) if usage is not None else (-1, -1)
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
                model_used=model_used(exchange),
                tokens=tokens if min(tokens) >= 0 else None,
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
        self.recorder.answered(route, status)
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
            "worker": self.shared.worker,
            "workers": self.shared.workers,
            "pid": os.getpid(),
            "is_prober": self.is_prober,
            "tasks": len(asyncio.all_tasks()),
            "timers": set_timers(),
            "exchanges": len(self.exchanges.live),
            "client_connections": self.server.clients(),
            **self._defences(),
            "node_connections": {
                name: sum(pool.counts()[name] for pool in pools) for name in ("idle", "busy", "dialling")
            },
            "node_connections_opened": sum(pool.opened for pool in pools),
            "node_connections_reused": sum(pool.reused for pool in pools),
            "held_bytes": self.exchanges.held_bytes,
            "memory_pressure": int(self.memory.pressure),
            "requests": self.exchanges.started,
            "answered_without_exchange": self.answered,
            "retries": self.exchanges.retries,
            "uncertain_replays": self.exchanges.uncertain_replays,
            "streams_interrupted": self.exchanges.interrupted,
            "malformed_events": self.exchanges.malformed_events,
            "clients_gone": self.exchanges.client_gone,
            "bodies_not_held": self.exchanges.unmovable,
            "streams_resumed": self.exchanges.resumed,
            "tunnels": self.exchanges.tunnels,
            "reloads": self.reloads,
            "generation": generation.number if generation is not None else 0,
            "objects": len(gc.get_objects()),
        }


def try_to_build(config: Config, settings: Settings) -> Generation:
    """Build a configuration without a loop or a socket, to see whether it can be. Raises ConfigError."""
    resolver = Resolver(connect_to=(*settings.connect_to, *config.process.connect_to))
    return Builder(resolver, SharedState().node_table(), ca_file=settings.ca_file).build(
        config, None, number=1
    )


def retry_budget(process: ProcessConfig) -> RetryBudget | None:
    """The budget of this process; None: retries are not limited by one."""
    return RetryBudget(process.retry_budget_percent) if process.retry_budget_percent else None


def model_used(exchange: Answering) -> str | None:
    """Which model answered, as far as the answer said so."""
    if not exchange.plan.is_llm or not 200 <= exchange.status < 300:
        return None
    scanner = exchange.relay.scanner if exchange.relay is not None else None
    if scanner is not None:
        return scanner.model
    facts = scan(exchange.answer) if exchange.answer else None
    return facts.model if facts is not None else None


def set_timers() -> int:
    """Timers that are set. uvloop has no list of its own, but each of them is an object."""
    return sum(
        1 for item in gc.get_objects() if type(item).__name__ == "TimerHandle" and not item.cancelled()
    )
