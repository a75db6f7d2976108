"""Which route a request takes."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.routing import Route, RouteTable


def table(*routes: tuple[str, Any]) -> RouteTable:
    """Routes by name; each with its uris, or a dict of its fields."""
    made = []
    for name, given in routes:
        fields = dict(given) if isinstance(given, dict) else {"uris": given}
        made.append(Route(name, name, fields.pop("uris"), name, **fields))
    return RouteTable(made)


def found(routes: RouteTable, path: str, host: str | None = "gw", method: str = "GET") -> str | None:
    route = routes.match(method.encode(), None if host is None else host.encode(), path.encode())
    return None if route is None else route.name


def test_an_exact_path_wins_over_prefixes_and_the_longer_prefix_over_the_shorter() -> None:
    routes = table(("all", ["/*"]), ("v1", ["/v1/*"]), ("chat", ["/v1/chat/*"]), ("models", ["/v1/models"]))
    assert found(routes, "/v1/models") == "models"
    assert found(routes, "/v1/models/") == "v1"
    assert found(routes, "/v1/chat/completions") == "chat"
    assert found(routes, "/v1/chat") == "v1"
    assert found(routes, "/v1") == "all"
    assert found(routes, "/V1/models") == "all"


def test_a_prefix_matches_itself() -> None:
    routes = table(("a", ["/v1*"]))
    assert found(routes, "/v1") == found(routes, "/v12") == found(routes, "/v1/x") == "a"
    assert found(routes, "/v") is None


def test_no_route_is_none() -> None:
    assert found(RouteTable([]), "/") is None
    assert found(table(("a", ["/a"])), "/b") is None


def test_priority_decides_between_routes_of_one_pattern_and_the_order_between_equals() -> None:
    routes = table(
        ("low", {"uris": ["/a", "/b*"], "priority": 1}),
        ("high", {"uris": ["/a", "/b*"], "priority": 2}),
        ("late", {"uris": ["/a", "/b*"], "priority": 2}),
    )
    assert found(routes, "/a") == found(routes, "/bc") == "high"


def test_priority_does_not_beat_a_closer_pattern() -> None:
    routes = table(("wide", {"uris": ["/*"], "priority": 100}), ("close", ["/a"]))
    assert found(routes, "/a") == "close"


def test_a_wrong_method_is_no_match() -> None:
    routes = table(("get", {"uris": ["/a"], "methods": ["get"]}), ("rest", ["/*"]))
    assert found(routes, "/a", method="GET") == "get"
    assert found(routes, "/a", method="POST") == "rest"
    only = table(("get", {"uris": ["/a", "/b*"], "methods": ["GET", "HEAD"]}))
    assert found(only, "/a", method="POST") is None
    assert found(only, "/b", method="get") is None
    assert found(only, "/b", method="HEAD") == "get"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "exact"),
        ("API.Example.com:8080", "exact"),
        ("x.api.example.com", "longer"),
        ("x.example.com", "shorter"),
        ("example.com", "any"),
        ("other", "any"),
        ("", "any"),
        (None, "any"),
        ("[::1]:80", "six"),
        ("[::1]", "six"),
        ("[::2]", "any"),
    ],
)
def test_a_host_is_matched_before_its_path(host: str | None, name: str) -> None:
    routes = table(
        ("any", ["/*"]),
        ("shorter", {"uris": ["/*"], "hosts": ["*.example.com"]}),
        ("longer", {"uris": ["/*"], "hosts": ["*.api.example.com"]}),
        ("exact", {"uris": ["/*"], "hosts": ["Api.example.com"]}),
        ("six", {"uris": ["/*"], "hosts": ["[::1]"]}),
    )
    assert found(routes, "/", host) == name


def test_a_host_without_the_path_falls_back_to_the_next_group() -> None:
    routes = table(
        ("any", ["/b"]),
        ("wild", {"uris": ["/b", "/c"], "hosts": ["*.example.com"]}),
        ("exact", {"uris": ["/a"], "hosts": ["x.example.com"]}),
    )
    assert found(routes, "/a", "x.example.com") == "exact"
    assert found(routes, "/c", "x.example.com") == "wild"
    assert found(routes, "/b", "y.example.org") == "any"
    assert found(routes, "/c", "y.example.org") is None


def test_a_route_may_have_several_paths_and_hosts() -> None:
    routes = table(("a", {"uris": ["/x", "/y*"], "hosts": ["one", "*.two"]}))
    assert {found(routes, path, host) for path in ("/x", "/yz") for host in ("one", "a.two")} == {"a"}
    assert repr(routes.routes[0]) == "<Route a /x /y*>"
