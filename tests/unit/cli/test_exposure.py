"""Who may listen where: beyond this machine only with client keys, or when that was said to be meant."""

import socket
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.cli.exposure import is_local, open_routes, refuse_exposure
from fastgw.config.model import Config, PluginConfig, ProcessConfig, RouteConfig
from fastgw.config.problems import ConfigErrors


def route(name: str, plugins: Mapping[str, Mapping[str, Any]] | None = None) -> RouteConfig:
    found = tuple(PluginConfig(plugin, conf) for plugin, conf in (plugins or {}).items())
    return RouteConfig(name, name, ("/v1/*",), None, plugins=found)


OPEN = route("open", {"proxy-rewrite": {}})
LOCKED = route("locked", {"key-auth": {}})
HALF_LOCKED = route("half", {"key-auth": {"anonymous_consumer": "nobody"}})


def test_a_route_is_open_unless_key_auth_asks_everybody() -> None:
    assert open_routes(Config((OPEN, LOCKED, HALF_LOCKED))) == ("open", "half")


@pytest.mark.parametrize(
    ("listen", "routes", "allowed", "is_refused"),
    [
        ("0.0.0.0:1", (OPEN,), False, True),
        ("[::]:1", (LOCKED, OPEN), False, True),
        ("192.0.2.1:1", (HALF_LOCKED,), False, True),
        ("gateway.example:1", (OPEN,), False, True),
        ("0.0.0.0:1", (OPEN,), True, False),
        ("0.0.0.0:1", (LOCKED,), False, False),
        ("0.0.0.0:1", (), False, False),
        ("127.0.0.1:1", (OPEN,), False, False),
        ("127.9.9.9:1", (OPEN,), False, False),
        ("[::1]:1", (OPEN,), False, False),
        ("localhost:1", (OPEN,), False, False),
        ("unix:/run/a.sock", (OPEN,), False, False),
    ],
)
def test_only_what_asks_for_keys_may_be_reached_from_elsewhere(
    listen: str, routes: tuple[RouteConfig, ...], allowed: bool, is_refused: bool
) -> None:
    process = ProcessConfig(listen=("127.0.0.1:9", listen), allow_unauthenticated=allowed)
    config = Config(routes, process=process, file="f.yaml")
    if is_refused:
        with pytest.raises(ConfigErrors) as refused:
            refuse_exposure(config)
        (problem,) = refused.value.problems
        assert (problem.file, problem.path) == ("f.yaml", "fastgw.listen")
        assert listen in problem.message
        assert "127.0.0.1:9" not in problem.message
        assert "allow_unauthenticated" in problem.hint
    else:
        refuse_exposure(config)


def test_an_inherited_socket_is_judged_by_its_own_address() -> None:
    with socket.socket() as inner, socket.socket() as outer, socket.socket(socket.AF_UNIX) as unix:
        inner.bind(("127.0.0.1", 0))
        outer.bind(("0.0.0.0", 0))
        assert is_local(f"fd:{inner.fileno()}")
        assert not is_local(f"fd:{outer.fileno()}")
        assert is_local(f"fd:{unix.fileno()}")
        assert inner.getsockname(), "it is still open"
