"""Warnings: configurations that load, and will not do what their writer hopes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastgw.config.addresses import is_ip
from fastgw.config.build import Builder, known_provider
from fastgw.config.model import ConsumerConfig, Mark, NodeConfig, PluginConfig, RouteConfig
from fastgw.secret import Secret, reveal

_CREDENTIALS = ("authorization", "api-key", "x-api-key")
_VARIABLE = re.compile(r"(?<!\\)\$")


def warn(routes: tuple[RouteConfig, ...], consumers: tuple[ConsumerConfig, ...], builder: Builder) -> None:
    """Look at the whole configuration for what no single field shows."""
    if not routes:
        builder.warning((), "no routes: every request gets 404")
    predicates: dict[tuple[object, ...], str] = {}
    for route in routes:
        _warn_of_shared_credential(route, builder)
        _warn_of_no_credential(route, builder)
        for uri in route.uris:
            predicate = (uri, frozenset(route.hosts), frozenset(route.methods), route.priority)
            first = predicates.setdefault(predicate, route.name)
            if first != route.name:
                _warn_at(builder, route.mark, f"route {route.name} asks for the same as route {first}: {uri}")
    keys = any(consumer.keys for consumer in consumers)
    for plugin in {id(plugin): plugin for route in routes for plugin in route.plugins}.values():
        if plugin.name == "key-auth":
            anonymous = plugin.conf.get("anonymous_consumer")
            if not keys and not anonymous:
                _warn_at(builder, plugin.mark, "key-auth, but no consumer has a key: every request gets 401")
            if anonymous and anonymous not in {consumer.username for consumer in consumers}:
                _warn_at(builder, plugin.mark, "anonymous_consumer names no consumer")


def _warn_of_shared_credential(route: RouteConfig, builder: Builder) -> None:
    """One literal key, sent to whichever vendor is chosen."""
    nodes = route.upstream.nodes if route.upstream else ()
    for plugin, name in _literal_credentials(route):
        receivers = [node for node in nodes if not _has_credential(node, name)]
        vendors = {_vendor(node): node.host for node in receivers}
        if len(vendors) > 1:
            _warn_at(
                builder,
                plugin.mark,
                f"one {name} is sent to {' and '.join(sorted(vendors.values()))}: "
                "each learns the other's key, and the one it is not for refuses it",
                'give each node its own: auth: {header: {Authorization: "Bearer ${NAME}"}}',
            )


def _warn_of_no_credential(route: RouteConfig, builder: Builder) -> None:
    if route.passthrough or any(True for _ in _set_credentials(route)):
        return
    for node in route.upstream.nodes if route.upstream else ():
        if known_provider(node.host) and not node.auth_headers and not node.auth_query:
            _warn_at(
                builder,
                node.mark,
                f"no credential is configured for {node.name}",
                'write auth: {header: {Authorization: "Bearer ${NAME}"}}, or passthrough: true in the route',
            )


def _set_credentials(route: RouteConfig) -> Iterator[tuple[PluginConfig, str, list[str | Secret]]]:
    """The credential headers that proxy-rewrite sets: plugin, name, values."""
    for plugin in route.plugins:
        headers = plugin.conf.get("headers") if plugin.name == "proxy-rewrite" else None
        for verb in ("add", "set"):
            for name, value in ((headers or {}).get(verb) or {}).items():
                if name.lower() in _CREDENTIALS:
                    yield plugin, name, value if isinstance(value, list) else [value]


def _literal_credentials(route: RouteConfig) -> Iterator[tuple[PluginConfig, str]]:
    for plugin, name, values in _set_credentials(route):
        if any(value and not _VARIABLE.search(reveal(value)) for value in values):
            yield plugin, name


def _has_credential(node: NodeConfig, name: str) -> bool:
    return any(own.lower() == name.lower() for own, _ in node.auth_headers)


def _vendor(node: NodeConfig) -> str:
    """Who runs this node: the domain it is in, or "us" for addresses and single words."""
    if is_ip(node.host) or "." not in node.host:
        return "us"
    return ".".join(node.host.rstrip(".").split(".")[-2:])


def _warn_at(builder: Builder, mark: Mark | None, message: str, hint: str = "") -> None:
    if mark is not None:
        builder.report.warning((mark.line, mark.column), mark.path, message, hint)
