"""`fastgw demo`: the failover from start to end, in about a minute, on simulated providers.

Everything runs in this process on ports of its own: both providers, the gateway with its embedded
configuration, and the callers, who judge every answer.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

import uvloop

from fastgw.cli.demo.lines import act_line, complaints, summary
from fastgw.cli.demo.play import Act, Play
from fastgw.cli.options import Exit
from fastgw.cli.overrides import Overrides
from fastgw.cli.source import Source
from fastgw.gateway import Gateway, Settings
from fastgw.secret import HiddenMapping
from fastgw.simulator import start as start_simulator


class _Faults(logging.Handler):
    """Keeps what the event loop and the gateway report as errors: in a demo there must be none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" {record.exc_info[1]!r}"
        if len(self.texts) < 20:
            self.texts.append(text)


def run(*, is_plain: bool, scale: float) -> Exit:
    """Play it; CLEAN only if no caller saw an error."""
    faults = _Faults()
    logging.getLogger().addHandler(faults)
    logging.getLogger("fastgw").setLevel(logging.ERROR)  # that a provider fails is the show, not news
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            play = runner.run(_perform(is_plain=is_plain, scale=scale))
    except KeyboardInterrupt:
        sys.stdout.write("interrupted before the end\n")
        return Exit.FAILURE
    finally:
        logging.getLogger().removeHandler(faults)
    sys.stdout.write(summary(play) + "\n")
    found = complaints(play) + [f"  {text}" for text in faults.texts]
    if play.is_flawless and not found:
        return Exit.CLEAN
    sys.stdout.write("\n".join(found) + "\n")
    return Exit.FAILURE


async def _perform(*, is_plain: bool, scale: float) -> Play:
    async with contextlib.AsyncExitStack() as undo:
        simulator = await start_simulator()
        undo.push_async_callback(simulator.close)
        config = Source(Overrides(), HiddenMapping({}), None, ("OPENAI_API_KEY", "DEEPSEEK_API_KEY")).load()
        settings = Settings(
            listen=("127.0.0.1:0",),
            admin=None,
            connect_to=simulator.connect_to,
            ca_file=simulator.ca_file,
            forwards_simulator_fields=True,
        )
        gateway = Gateway(config, settings)
        undo.push_async_callback(gateway.close)
        await gateway.start()
        assert gateway.generation is not None
        built = next(iter(gateway.generation.upstreams.values()))
        nodes = sorted(built.upstream.nodes, key=lambda node: -node.priority)
        address = (gateway.addresses[0].host, gateway.addresses[0].port)
        play = Play(simulator.openai, nodes, nodes[0].name, address, scale=scale)
        show = undo.enter_context(_stage(play, is_plain=is_plain))
        await play.perform(show)
        return play


@contextlib.contextmanager
def _stage(play: Play, *, is_plain: bool) -> Iterator[Callable[[Act], None]]:
    """Where the play is seen; yields what to call after each scene."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if is_terminal and not is_plain:
        from rich.console import Console

        from fastgw.cli.demo.picture import Picture

        with Picture(play, Console()):
            yield _say_nothing
    else:
        yield _say(play)


def _say(play: Play) -> Callable[[Act], None]:
    def say(act: Act) -> None:
        sys.stdout.write(act_line(len(play.acts), play, act) + "\n")
        sys.stdout.flush()

    return say


def _say_nothing(_: Act) -> None:
    """The picture shows it."""
