"""The life of `fastgw run`: load, listen, serve; reload, drain and end as signals ask for."""

import asyncio
import contextlib
import faulthandler
import logging
import os
import resource
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import uvloop

from fastgw._version import __version__
from fastgw.access_log import AccessLog
from fastgw.admin import Admin, AdminRefused
from fastgw.cli import logs
from fastgw.cli.banner import Ink, Started, banner, process_warnings, url
from fastgw.cli.exposure import refuse_exposure
from fastgw.cli.options import Exit
from fastgw.cli.overrides import OFF, Overrides
from fastgw.cli.source import Source
from fastgw.config.model import Config
from fastgw.config.problems import ConfigErrors
from fastgw.errors import ConfigError, FastgwError
from fastgw.gateway import Gateway, Settings
from fastgw.server import Address, ListenFailed, on_signals

if TYPE_CHECKING:
    from fastgw.simulator import Simulator

logger = logging.getLogger("fastgw.process")

WANTED_DESCRIPTORS = 65_536  # two per request in flight, and some
CONTROL_PORT = 9990  # of the simulated providers, where it is free


def run(overrides: Overrides) -> Exit:
    """Run until a signal ends it; returns the exit code. Says on standard error what is wrong."""
    faulthandler.enable()
    source = Source.choose(overrides, os.environ)
    try:
        config = source.load()
    except ConfigErrors as errors:
        return _refused(errors)
    process = config.process
    logs.configure(process.log_level or "info", process.log_format or "text")
    _adjust_limits()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Process(config, source).main())
    except KeyboardInterrupt:  # before the signal handlers were in place
        return Exit.CLEAN
    except Exception:
        logger.exception("the gateway ended by a fault of its own")
        return Exit.FAILURE
    finally:
        logs.close()


def _refused(error: FastgwError) -> Exit:
    """Every mistake on a line of its own, then what was done about it."""
    count = len(error.problems) if isinstance(error, ConfigErrors) else 1
    errors = "1 error" if count == 1 else f"{count} errors"
    sys.stderr.write(f"{error}\nfastgw: refused the configuration: {errors}\n")
    return Exit.CONFIG


def _adjust_limits() -> None:
    """As many descriptors as we may have; and no core dump: it would hold the providers' keys."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


class _Process:
    """One gateway with what surrounds it. Belongs to the loop that runs ``main``."""

    def __init__(self, config: Config, source: Source) -> None:
        self._config = config
        self._source = source
        self._gateway: Gateway | None = None
        self._access_log: AccessLog | None = None
        self._asked_to_end = asyncio.Event()
        self._asked_to_stop_now = asyncio.Event()

    async def main(self) -> Exit:
        asyncio.get_running_loop().set_exception_handler(_report_callback)
        async with contextlib.AsyncExitStack() as undo:
            try:
                started = await self._start(undo)
            except (ConfigError, AdminRefused) as error:
                return _refused(error)
            except ListenFailed as error:
                sys.stderr.write(f"fastgw: {error}\n")
                return Exit.LISTEN
            self._announce(started)
            await self._serve()
        return Exit.CLEAN

    # --- Starting -----------------------------------------------------------------------------

    async def _start(self, undo: contextlib.AsyncExitStack) -> Started:
        """Start everything; what was started is put on ``undo``.

        Raises:
            ConfigError, AdminRefused, ListenFailed: nothing of it runs then, once ``undo`` is done.
        """
        overrides = self._source.overrides
        process = self._config.process
        settings = Settings(listen=process.listen, admin=process.admin, connect_to=overrides.connect_to)
        control = None
        if self._source.is_simulated:
            simulator = await _simulator()
            undo.push_async_callback(simulator.close)
            control = f"127.0.0.1:{simulator.control_port}"
            settings = replace(settings, connect_to=simulator.connect_to, forwards_simulator_fields=True)
            self._config = replace(self._config, process=replace(process, ca_file=simulator.ca_file))
        self._access_log = self._open_access_log()
        undo.callback(self._access_log.close)
        gateway = self._gateway = Gateway(
            self._config,
            settings,
            reload_config=self._load_again if self._source.file is not None else None,
            access_log=self._access_log if self._access_log.is_enabled else None,
        )
        undo.push_async_callback(gateway.close)
        self._handle_signals()
        await gateway.start()
        admin_address = None
        if process.admin not in (None, OFF):
            admin = Admin(gateway, token=process.admin_token)
            admin_address = str(await admin.start(Address.parse(process.admin)))
        return Started(tuple(map(str, gateway.addresses)), admin_address, control)

    def _open_access_log(self) -> AccessLog:
        process = self._config.process
        destination = None if process.access_log == OFF else process.access_log
        try:
            return AccessLog(destination, "json" if process.log_format == "json" else "text")
        except OSError as error:
            raise ConfigError(f"access log {destination}: {error.strerror or error}") from error

    def _announce(self, started: Started) -> None:
        """The banner, or one record where the log is for machines."""
        if self._config.process.log_format == "json":
            fields: dict[str, Any] = {
                "version": __version__,
                "listen": [url(address) for address in started.listen],
                "admin": url(started.admin) if started.admin else None,
                "config": self._config.file,
                "profile": self._config.profile.value,
                "simulated": self._source.is_simulated,
            }
            logger.info("started", extra={"fields": fields})
            for warning in (*self._config.warnings, *process_warnings(self._config, self._source)):
                logger.warning("%s", warning)
            for name in self._source.missing_keys:
                logger.warning("%s is not set", name)
        else:
            sys.stderr.write(banner(self._config, self._source, started, Ink.for_stream(sys.stderr)))
            sys.stderr.flush()

    # --- Running ------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        on_signals(
            {
                signal.SIGTERM: self._end,
                signal.SIGINT: self._end,
                signal.SIGQUIT: self._stop_now,
                signal.SIGHUP: self._reload,
                signal.SIGUSR1: self._reopen,
            }
        )

    async def _serve(self) -> None:
        """Until a signal; then drain. What is still running afterwards is ended by ``undo``."""
        gateway = self._gateway
        assert gateway is not None
        await self._asked_to_end.wait()
        if self._asked_to_stop_now.is_set():
            return
        assert gateway.generation is not None
        limit = gateway.generation.config.process.drain_s  # a reload may have changed it
        draining = asyncio.ensure_future(gateway.drain(limit))
        await asyncio.sleep(0)  # nothing is accepted any more when this is said
        logger.info(
            "draining: requests in flight: %d; they have %g s, a second signal stops at once",
            len(gateway.exchanges.live),
            limit,
        )
        hurried = asyncio.ensure_future(self._asked_to_stop_now.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            draining.cancel()
            logger.warning("stopping now: interrupting %d requests", len(gateway.exchanges.live))
        with contextlib.suppress(asyncio.CancelledError):
            if await draining:
                logger.info("drained")

    def _end(self) -> None:
        if self._asked_to_end.is_set():
            self._asked_to_stop_now.set()
        self._asked_to_end.set()

    def _stop_now(self) -> None:
        self._asked_to_stop_now.set()
        self._asked_to_end.set()

    def _reload(self) -> None:
        assert self._gateway is not None
        if self._asked_to_end.is_set() or self._gateway.generation is None:
            return  # too late, or too early
        if self._gateway.reload_config is None:
            logger.warning("there is nothing to reload: the configuration is the embedded default")
            return
        self._gateway.reload()  # says itself what came of it

    def _reopen(self) -> None:
        if self._access_log is not None:
            self._access_log.reopen()
            logger.info("reopened the access log")

    def _load_again(self) -> Config:
        """The configuration as it is now, and what of it needs a restart.

        Raises:
            ConfigErrors: it is refused.
        """
        config = self._source.load()
        old, new = self._config.process, config.process
        refuse_exposure(replace(config, process=replace(new, listen=old.listen)))  # where we do listen
        for name in ("listen", "admin", "admin_token", "access_log", "log_format", "connect_to", *_LISTENER):
            if getattr(old, name) != getattr(new, name):
                written = name.removesuffix("_s")  # as it stands in the file
                logger.warning("fastgw.%s has changed: a restart is needed for that", written)
        logs.configure(new.log_level or "info", old.log_format or "text")
        for warning in config.warnings:
            logger.warning("%s", warning)
        return config


# Limits that the listeners took over when they were made.
_LISTENER = (
    "max_head_bytes",
    "max_fields",
    "max_connections",
    "head_timeout_s",
    "body_stall_s",
    "keepalive_s",
)


async def _simulator() -> "Simulator":
    """The built-in providers, with their control port where the documents say it is, if that is free."""
    from fastgw.simulator import start  # a gateway with real providers has no use for it

    try:
        return await start(control_port=CONTROL_PORT)
    except OSError:
        return await start(control_port=0)


def _report_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception in a callback of the loop: one connection's fault, never the process's end."""
    error = context.get("exception")
    logger.error("%s", context.get("message", "unhandled exception"), exc_info=error)
