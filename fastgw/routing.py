"""From a request head to its Route.

The rules are APISIX's ``radixtree_host_uri``: routes with a matching host come first, exact
before wildcard, longer wildcard before shorter; then routes without a host. Inside one of these
groups an exact path wins over prefixes, and a longer prefix over a shorter; ``priority`` orders
routes of the same pattern. A route whose method does not match is passed over, so that a wrong
method is "no route", never 405. The path is compared as the bytes that are sent on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Route:
    """A predicate on a request head. ``plan`` is what is done with a request that matches."""

    def __init__(
        self,
        id: str,  # the field's name, like APISIX's
        name: str,
        uris: Iterable[str],
        plan: Any,
        *,
        hosts: Iterable[str] = (),
        methods: Iterable[str] = (),
        priority: int = 0,
    ) -> None:
        self.id = id
        self.name = name
        self.uris = tuple(uris)
        self.hosts = tuple(host.lower() for host in hosts)
        self.methods = frozenset(method.upper().encode() for method in methods)
        self.priority = priority
        self.plan = plan

    def __repr__(self) -> str:
        return f"<Route {self.name} {' '.join(self.uris)}>"


class Paths:
    """The path patterns of one host."""

    def __init__(self) -> None:
        self.exact: dict[bytes, list[Route]] = {}
        self.prefixes: list[tuple[bytes, list[Route]]] = []

    def add(self, pattern: str, route: Route) -> None:
        if pattern.endswith("*"):
            prefix = pattern.removesuffix("*").encode()
            for known, routes in self.prefixes:
                if known == prefix:
                    routes.append(route)
                    break
            else:
                self.prefixes.append((prefix, [route]))
        else:
            self.exact.setdefault(pattern.encode(), []).append(route)

    def freeze(self) -> None:
        for routes in [*self.exact.values(), *(routes for _, routes in self.prefixes)]:
            routes.sort(key=lambda route: -route.priority)  # stable: the file's order decides ties
        self.prefixes.sort(key=lambda entry: -len(entry[0]))

    def match(self, method: bytes, path: bytes) -> Route | None:
        routes = self.exact.get(path)
        if routes is not None:
            for route in routes:
                if not route.methods or method in route.methods:
                    return route
        for prefix, routes in self.prefixes:
            if path.startswith(prefix):
                for route in routes:
                    if not route.methods or method in route.methods:
                        return route
        return None


class RouteTable:
    """All routes of one configuration; immutable once built."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._any_host = Paths()
        self._hosts: dict[bytes, Paths] = {}
        wildcards: dict[bytes, Paths] = {}
        for route in self.routes:
            for pattern in route.uris:
                for host in route.hosts or (None,):
                    if host is None:
                        self._any_host.add(pattern, route)
                    elif host.startswith("*"):
                        wildcards.setdefault(host[1:].encode(), Paths()).add(pattern, route)
                    else:
                        self._hosts.setdefault(host.encode(), Paths()).add(pattern, route)
        self._wildcards = sorted(wildcards.items(), key=lambda entry: -len(entry[0]))
        for paths in [self._any_host, *self._hosts.values(), *wildcards.values()]:
            paths.freeze()
        self._is_by_host = bool(self._hosts or self._wildcards)

    def match(self, method: bytes, host: bytes | None, path: bytes) -> Route | None:
        """The route of a request, or None. ``host`` as sent, with or without a port."""
        if self._is_by_host and host:
            name = _host_name(host)
            paths = self._hosts.get(name)
            if paths is not None:
                route = paths.match(method, path)
                if route is not None:
                    return route
            for suffix, paths in self._wildcards:
                if name.endswith(suffix):
                    route = paths.match(method, path)
                    if route is not None:
                        return route
        return self._any_host.match(method, path)


def _host_name(host: bytes) -> bytes:
    """A Host value without its port, in lower case."""
    name = host.lower()
    if name.startswith(b"["):
        return name.partition(b"]")[0] + b"]"
    return name.partition(b":")[0]
