"""ADC's form: ``services:`` with their routes and their upstream inside."""

from __future__ import annotations

from hashlib import sha1

from fastgw.config.build import Builder, Values, merged
from fastgw.config.model import RouteConfig, UpstreamConfig
from fastgw.config.problems import Path


def routes(data: Values, builder: Builder) -> tuple[RouteConfig, ...]:
    """The routes of all services, in the order of the file."""
    found: list[RouteConfig] = []
    names: dict[str, Path] = {}
    ids: dict[str, Path] = {}
    for path, service in builder.items(data.get("services"), ("services",)):
        name = service.get("name", "")
        id = service.get("id") or _id(name)
        builder.unique(names, name, (*path, "name"), "the service name")
        builder.unique(ids, service.get("id"), (*path, "id"), "the id")
        upstream = None
        if "upstream" in service:
            upstream = builder.upstream(service["upstream"], (*path, "upstream"), name=name, id=id)
        routes = _routes_of(service, path, name, id, upstream, builder, ids)
        found += routes
        if any(route.upstream is None for route in routes) and not builder.document.is_written(
            (*path, "upstream")
        ):
            builder.warning(
                path, "a service without upstream: its requests get 503", "write upstream: {nodes: [...]}"
            )
    return tuple(found)


def _routes_of(
    service: Values,
    path: Path,
    service_name: str,
    service_id: str,
    upstream: UpstreamConfig | None,
    builder: Builder,
    ids: dict[str, Path],
) -> list[RouteConfig]:
    plugins = builder.plugins(service, path, service_id)
    prefix = service.get("path_prefix", "").rstrip("/")
    if prefix:
        builder.uris([prefix], (*path, "path_prefix"))
    found = []
    names: dict[str, Path] = {}
    for below, route in builder.items(service.get("routes"), (*path, "routes")):
        name = route.get("name", "")
        builder.unique(names, name, (*below, "name"), "the route name")
        builder.unique(ids, route.get("id"), (*below, "id"), "the id")
        id = route.get("id") or _id(f"{service_name}.{name}")
        active = merged(plugins, builder.plugins(route, below, id))
        found.append(
            RouteConfig(
                id=id,
                name=name,
                uris=builder.uris(route.get("uris"), (*below, "uris"), prefix),
                upstream=builder.upstream_by_plugin(active, below) or upstream,
                service=service_name,
                hosts=builder.hosts(route.get("hosts") or service.get("hosts")),
                methods=tuple(method for method in route.get("methods") or () if method),
                priority=int(route.get("priority", 0)),
                plugins=active,
                timeout=builder.timeouts(route, "timeout"),
                deadlines=builder.deadlines(route.get("deadlines")),
                replayable=route.get("replayable"),
                passthrough=route.get("passthrough", False),
                enable_websocket=route.get("enable_websocket", False),
                on_context_length=route.get("on_context_length", "answer"),
                on_stream_failure=route.get("on_stream_failure", "end"),
                strip_prefix=prefix if service.get("strip_path_prefix") else "",
                mark=builder.mark(below),
            )
        )
    return found


def _id(name: str) -> str:
    """The id that ADC gives to something without one."""
    return sha1(name.encode(), usedforsecurity=False).hexdigest()
