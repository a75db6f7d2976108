"""Who could use the providers' keys: a gateway that others can reach must know its clients."""

import os
import socket

from fastgw.config.addresses import is_loopback, parse_listen
from fastgw.config.model import Config, PluginConfig
from fastgw.config.problems import ConfigErrors, Problem


def open_routes(config: Config) -> tuple[str, ...]:
    """The names of the routes that ask their clients for no key."""
    return tuple(route.name or route.id for route in config.routes if not _asks_for_key(route.plugins))


def _asks_for_key(plugins: tuple[PluginConfig, ...]) -> bool:
    return any(plugin.name == "key-auth" and not plugin.conf.get("anonymous_consumer") for plugin in plugins)


def refuse_exposure(config: Config) -> None:
    """Refuse a configuration that lends the providers' keys to everybody who can reach this machine.

    Raises:
        ConfigErrors: it listens beyond this machine, and a route asks for no key.
    """
    process = config.process
    beyond = [address for address in process.listen if not is_local(address)]
    routes = open_routes(config)
    if not beyond or not routes or process.allow_unauthenticated:
        return
    named = ", ".join(routes[:5]) + (", ..." if len(routes) > 5 else "")
    message = (
        f"{', '.join(beyond)} can be reached from other machines, and no client key is asked for on "
        f"{'route' if len(routes) == 1 else 'routes'} {named}: anybody could use the providers' keys"
    )
    hint = (
        "add the plugin key-auth with consumers, listen on 127.0.0.1, "
        "or write fastgw: {allow_unauthenticated: true} if something in front asks for a key"
    )
    raise ConfigErrors([Problem(config.file, 1, 1, "fastgw.listen", message, hint)])


def is_local(address: str) -> bool:
    """Can only this machine reach this address (in its usual form)?"""
    if address.startswith("fd:"):
        return _is_local_socket(int(address.removeprefix("fd:")))
    return is_loopback(parse_listen(address)[0])


def _is_local_socket(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)) as inherited:
            if inherited.family == socket.AF_UNIX:
                return True
            return is_loopback(inherited.getsockname()[0])
    except OSError:
        return True  # no socket at all: listening on it will say so
