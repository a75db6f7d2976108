"""`fastgw run` with several workers: what they have in common, and who sees to them.

The supervisor holds the listening sockets, so that no connection is refused while a worker is
replaced, the memory that the workers share, and the last configuration that was good. Where the
providers are simulated, they are in a process of their own.
"""

import asyncio
import contextlib
import functools
import logging
import pickle
import socket
from dataclasses import replace

import uvloop

from fastgw.cli import garbage, held_signals, logs
from fastgw.cli.banner import Started
from fastgw.cli.options import Exit
from fastgw.cli.overrides import OFF
from fastgw.cli.process import (
    CONFIGURATION,
    REFUSED,
    Post,
    Process,
    Simulated,
    announce,
    load_again,
    pack_reload,
    refused,
    serve,
    settled,
    start_simulator,
    unpack_reload,
)
from fastgw.cli.source import Source
from fastgw.config.model import Config
from fastgw.errors import FastgwError
from fastgw.gateway import Settings, try_to_build
from fastgw.secret import packed, secrets_in
from fastgw.server import Address, ListenFailed, SocketName, hold_port, open_sockets
from fastgw.shared_state import SharedState, Undertaker
from fastgw.supervisor import DRAIN, READY, STOP, Channel, Message, Role, Supervisor

logger = logging.getLogger("fastgw.crew")

HANG_LIMIT_S = 10.0


def run(config: Config, source: Source) -> Exit:
    """Run until a signal ends it; returns the exit code. Says on standard error what is wrong."""
    logs.before_forks()  # a process with a thread cannot be forked safely
    crew = _Crew(config, source)
    try:
        crew.prepare()
    except ListenFailed as error:
        logs.tell(f"fastgw: {error}\n")
        return Exit.LISTEN
    except FastgwError as error:
        return refused(error)
    try:
        return Exit(crew.run())
    except Exception:
        logger.exception("the supervisor ended by a fault of its own")
        return Exit.FAILURE
    finally:
        logs.close()


class _Listening:
    """One address and its sockets: one for each worker, or one for all."""

    def __init__(self, asked: Address, workers: int) -> None:
        self.asked = asked
        self.sockets = open_sockets(asked, workers)
        self.name = SocketName(asked)

    def __str__(self) -> str:
        """Where it really is."""
        if self.asked.path or self.asked.fd >= 0:
            return str(self.asked)
        return str(replace(self.asked, port=self.sockets[0].getsockname()[1]))

    def of_worker(self, worker: int) -> socket.socket:
        return self.sockets[worker if len(self.sockets) > 1 else 0]

    def pause(self, worker: int) -> None:
        """Hold the port for a worker, but no queue, if it has one of its own; it listens when it serves."""
        if len(self.sockets) > 1:
            held = hold_port(replace(self.asked, port=self.sockets[worker].getsockname()[1]))
            self.sockets[worker].close()
            self.sockets[worker] = held

    def close(self, *, but: socket.socket | None = None) -> None:
        for sock in self.sockets:
            if sock is not but:
                sock.close()


class _Crew:
    """The supervisor's side of it. ``prepare`` comes first."""

    def __init__(self, config: Config, source: Source) -> None:
        self._config = config
        self._source = source
        self._workers = config.process.workers
        self._latest: bytes | None = None  # what a reload has brought, packed
        self._number = 1  # of the newest generation
        self._simulated: Simulated | None = None
        self._listening: list[_Listening] = []
        self._admin: _Listening | None = None

    def prepare(self) -> None:
        """Everything that can fail before there is a second process.

        Raises:
            ConfigError: the configuration cannot be built.
            ListenFailed: an address cannot be listened on.
        """
        process = self._config.process
        self._try_to_build(self._config)
        try:
            for text in process.listen:
                self._listening.append(_Listening(Address.parse(text), self._workers))
            if process.admin is not None and process.admin != OFF:
                self._admin = _Listening(Address.parse(process.admin), self._workers)
        except BaseException:
            self._stop_listening()
            raise
        self._shared = SharedState.for_workers(self._workers)
        self._undertaker = Undertaker(self._shared)
        self._supervisor = Supervisor(
            on_started=self._announce,
            on_hangup=self._reload,
            on_ending=self._stop_listening,
            hang_limit_s=self._source.overrides.worker_timeout_s or HANG_LIMIT_S,
        )

    def run(self) -> int:
        """To the end; returns the exit code."""
        workers = [self._worker(number) for number in range(self._workers)]
        # The first one alone: what it is refused for, all would be, and say so in chorus.
        stages = [workers[:1], workers[1:]]
        if self._source.is_simulated:
            stages.insert(0, [self._simulator()])
        garbage.settle()  # a search in a worker would copy every page of what all have alike
        try:
            return self._supervisor.run(*stages)
        finally:
            if self._admin is not None:
                self._admin.name.remove()

    def _try_to_build(self, config: Config) -> None:
        if not self._source.is_simulated:  # then it is ours, and its authority is not made yet
            try_to_build(config, Settings(connect_to=self._source.overrides.connect_to))

    # --- Roles --------------------------------------------------------------------------------

    def _worker(self, number: int) -> Role:
        heartbeats = self._shared.heartbeats
        assert heartbeats is not None
        return Role(
            f"worker {number}",
            functools.partial(self._be_worker, number),
            on_message=functools.partial(self._hear, number),
            on_death=functools.partial(self._bury, number),
            on_pause=functools.partial(self._leave_queues, number),
            last_beat=functools.partial(heartbeats.last, number),
        )

    def _be_worker(self, number: int, channel: Channel) -> int:
        logs.after_fork(f"worker {number}")
        inherited = []
        for listening in self._all_listening():
            sock = listening.of_worker(number)
            listening.close(but=sock)
            inherited.append((listening.asked, sock))
        config, generation = self._config, 1
        if self._latest is not None:
            generation, _, config = unpack_reload(self._latest)
            logs.hide(secrets_in(config))
        post = Post(self._shared.of_worker(number), inherited, channel, generation, self._simulated)
        return serve(Process(config, self._source, post))

    def _bury(self, number: int) -> None:
        lost = self._undertaker.bury(number)
        if lost:
            logger.warning("worker %d had %d requests under way", number, lost)

    def _leave_queues(self, number: int) -> None:
        """Take a worker that does not come up out of the kernel's distribution of connections.

        What its queues hold is reset rather than left waiting.
        """
        for listening in self._all_listening():
            try:
                listening.pause(number)
            except ListenFailed as error:
                logger.error("%s", error)

    def _simulator(self) -> Role:
        return Role(
            "simulated providers", self._be_simulator, on_message=self._hear_simulator, ends_last=True
        )

    def _be_simulator(self, channel: Channel) -> int:
        logs.after_fork("simulated providers")
        self._close_sockets()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._simulate(channel))
        logs.close()
        return Exit.CLEAN

    async def _simulate(self, channel: Channel) -> None:
        async with contextlib.AsyncExitStack() as undo:
            simulator = await start_simulator(self._simulated)
            undo.push_async_callback(simulator.close)
            ended = asyncio.Event()

            def hear() -> None:
                message = channel.receive()
                if message is None or message.word in (DRAIN, STOP):
                    loop.remove_reader(channel.fileno())
                    ended.set()

            loop = asyncio.get_running_loop()
            loop.add_reader(channel.fileno(), hear)
            channel.send(READY, pickle.dumps(Simulated.of(simulator)))
            await ended.wait()

    def _hear_simulator(self, message: Message) -> None:
        """It is ready, and says where: workers that are started from now on must know."""
        self._simulated = pickle.loads(message.payload)

    # --- What it is told ----------------------------------------------------------------------

    def _hear(self, worker: int, message: Message) -> None:
        if message.word == CONFIGURATION:
            logger.info("worker %d was asked to reload: all do", worker)
            self._spread(message.payload, worker)

    def _reload(self) -> None:
        """Load the configuration once for all; what is refused here reaches nobody."""
        if self._source.file is None:
            logger.warning("there is nothing to reload: the configuration is the embedded default")
            return
        try:
            in_force = self._config if self._latest is None else unpack_reload(self._latest)[2]
            secrets = frozenset(secrets_in(in_force))
            config = load_again(self._source, self._config.process, secrets)
            self._try_to_build(config)
        except (FastgwError, OSError, ValueError) as error:
            logger.error("reload refused, the running configuration stays:\n%s", error)
            self._supervisor.tell(REFUSED, str(error).encode(errors="replace"))
            return
        self._spread(packed(settled(config, self._config.process)), None)

    def _spread(self, config: bytes, origin: int | None) -> None:
        """Give all the same value: no worker reads the file, which may have changed again."""
        message = pack_reload(self._number + 1, origin, config)
        if self._supervisor.tell(CONFIGURATION, message):
            self._number += 1
            self._latest = message

    # --- Addresses ----------------------------------------------------------------------------

    def _announce(self) -> None:
        control = f"127.0.0.1:{self._simulated.control_port}" if self._simulated is not None else None
        admin = str(self._admin) if self._admin is not None else None
        announce(self._config, self._source, Started(tuple(map(str, self._listening)), admin, control))
        held_signals.release()

    def _all_listening(self) -> list[_Listening]:
        return self._listening + ([self._admin] if self._admin is not None else [])

    def _close_sockets(self) -> None:
        for listening in self._all_listening():
            listening.close()

    def _stop_listening(self) -> None:
        """The last holder of a socket ends it: from now on those are the workers."""
        self._close_sockets()
        for listening in self._listening:
            listening.name.remove()
