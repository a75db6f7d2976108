"""Flags: how their texts become values, which environment variable stands for each, and exit codes.

A flag wins over its environment variable, that over the configuration file, and the file over the
default. So no option has a default of its own here: None (or an empty tuple) means "not said", and
``overrides.py`` fills in what the file does not say either.
"""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LOG_LEVELS = ("debug", "info", "warning", "error")


class Exit(IntEnum):
    """What the process ends with."""

    CLEAN = 0
    FAILURE = 1  # something went wrong; `check` found errors; `demo` saw one
    USAGE = 2  # a bad command line
    LISTEN = 3  # an address could not be listened on
    CONFIG = 78  # the configuration was refused (sysexits' EX_CONFIG)


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option whose environment variable is FASTGW_<FLAG>, for every command alike."""
    settings.setdefault("envvar", "FASTGW_" + name.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_envvar", True)
    return click.option(name, *more, **settings)


# --- Values -----------------------------------------------------------------------------------


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback that puts each text through ``parse``; its ValueError is a bad command line."""

    def convert(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        return tuple(map(one, value)) if isinstance(value, tuple) else one(value)

    def one(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None

    return convert


def canonical_address(text: str) -> str:
    """``HOST:PORT``, ``[IPv6]:PORT``, ``:PORT``, ``unix:PATH`` or ``fd:NUMBER``, in one spelling.

    Raises ValueError with what was expected. Asks no resolver.
    """
    from fastgw.config.addresses import parse_listen, with_port

    host, port = parse_listen(text)
    return host if host.startswith(("unix:", "fd:")) else with_port(host, port)


def admin_address(text: str) -> str:
    """The same, or ``off``."""
    return text if text == "off" else canonical_address(text)


def connection(text: str) -> tuple[str, int, str, int]:
    """curl's ``HOST:PORT:HOST2:PORT2``; IPv6 addresses in brackets. Raises ValueError."""
    from fastgw.config.addresses import parse_connect_to

    return parse_connect_to(text)


class Seconds(click.FloatRange):
    """A number in a range, which ``nan`` passes for what click asks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


# --- Flags that several commands have ---------------------------------------------------------

FILE = click.Path(dir_okay=False)  # whether it can be read is said with all else that is wrong with it

config_file = option(
    "--config", "-c", "file", type=FILE, metavar="FILE",
    help="The configuration. Without it: ./gateway.yaml if there is one, else both providers with the keys "
    "in OPENAI_API_KEY and DEEPSEEK_API_KEY.",
)  # fmt: skip
profile = option(
    "--profile", type=click.Choice(["llm", "apisix"]),
    help="Which defaults fill in what the file leaves out. [default: what the file says, else llm]",
)  # fmt: skip
connect_to = option(
    "--connect-to", callback=parsed(connection), multiple=True, metavar="HOST:PORT:HOST2:PORT2",
    help="Connect to HOST2:PORT2 where HOST:PORT is asked for, as curl does. Names and certificates "
    "stay those of HOST. May be repeated.",
)  # fmt: skip
ca_file = option(
    "--ca-file", type=click.Path(exists=True, dir_okay=False, readable=True), metavar="FILE",
    help="Trust the certificates in FILE instead of the system's.",
)  # fmt: skip
credentials_dir = option(
    "--credentials-dir", type=click.Path(file_okay=False), metavar="DIR",
    help="Where the files are that ${credential:NAME} stands for. [default: CREDENTIALS_DIRECTORY]",
)  # fmt: skip
insecure_key_file = option(
    "--insecure-key-file", is_flag=True,
    help="Take files with keys although their group or others may read them.",
)  # fmt: skip
log_level = option(
    "--log-level", type=click.Choice(LOG_LEVELS, case_sensitive=False),
    help="Of the log on standard error. [default: info]",
)  # fmt: skip
log_format = option(
    "--log-format", type=click.Choice(["text", "json"]),
    help="Of the log on standard error and of the access log. [default: text]",
)  # fmt: skip
