"""The form of APISIX's standalone ``apisix.yaml``: flat lists that refer to each other by id."""

from __future__ import annotations

from typing import Any

from fastgw.config.build import Builder, Values, merged
from fastgw.config.model import RouteConfig, UpstreamConfig
from fastgw.config.problems import Path, nearest, shown

_Found = dict[str, tuple[Path, Values]]


def routes(data: Values, builder: Builder) -> tuple[RouteConfig, ...]:
    """The routes, in the order of the file, each with what it takes from its service."""
    return _Flat(data, builder).routes()


class _Flat:
    def __init__(self, data: Values, builder: Builder) -> None:
        self._builder = builder
        self._data = data
        self._services = self._by_id("services")
        self._plugin_configs = self._by_id("plugin_configs")
        self._upstreams = {
            id: builder.upstream(values, path, name=str(values.get("name", id)), id=id)
            for id, (path, values) in self._by_id("upstreams").items()
        }
        self._service_plugins = {
            id: builder.plugins(values, path, id) for id, (path, values) in self._services.items()
        }
        self._config_plugins = {
            id: builder.plugins(values, path, id) for id, (path, values) in self._plugin_configs.items()
        }
        self._service_upstreams = {
            id: self._upstream(values, path, id) for id, (path, values) in self._services.items()
        }

    def routes(self) -> tuple[RouteConfig, ...]:
        found = (self._route(id, path, values) for id, (path, values) in self._by_id("routes").items())
        return tuple(route for route in found if route is not None)

    def _by_id(self, kind: str) -> _Found:
        found: _Found = {}
        for path, values in self._builder.items(self._data.get(kind), (kind,)):
            index = path[-1]
            assert isinstance(index, int)
            id = str(values.get("id", f"arr_{index + 1}"))
            if id in found:
                line = self._builder.document.position(found[id][0])[0]
                self._builder.error(
                    (*path, "id"), f"the id {shown(id)} is used twice", f"first in line {line}"
                )
            else:
                found[id] = (path, values)
        return found

    def _route(self, id: str, path: Path, route: Values) -> RouteConfig | None:
        builder = self._builder
        service_id = self._reference(route, "service_id", path, self._services, "service")
        _, service = self._services.get(service_id, ((), {}))
        config_id = self._reference(route, "plugin_config_id", path, self._plugin_configs, "plugin config")
        upstream = self._upstream(route, path, id)
        if upstream is None and service:
            upstream = self._service_upstreams[service_id]
        written = [
            key
            for key in ("upstream", "upstream_id", "service_id")
            if builder.document.is_written((*path, key))
        ]
        plugins = merged(
            self._service_plugins.get(service_id, {}),
            self._config_plugins.get(config_id, {}),
            builder.plugins(route, path, id),
        )
        own = builder.upstream_by_plugin(plugins, path)
        if not written and own is None:
            builder.error(path, "this route leads nowhere", "write upstream, upstream_id or service_id")
        uris, hosts = self._one_or_many(route, "uri", path), self._one_or_many(route, "host", path)
        if not uris and not any(builder.document.is_written((*path, key)) for key in ("uri", "uris")):
            builder.error(path, "uri is missing", "write uri, or uris for several")
        result = RouteConfig(
            id=id,
            name=route.get("name", id),
            uris=builder.uris(uris, (*path, "uris")),
            upstream=own or upstream,
            service=service.get("name", service_id) if service else None,
            hosts=builder.hosts(hosts or service.get("hosts")),
            methods=tuple(method for method in route.get("methods") or () if method),
            priority=int(route.get("priority", 0)),
            plugins=plugins,
            timeout=builder.timeouts(route, "timeout"),
            deadlines=builder.deadlines(route.get("deadlines")),
            replayable=route.get("replayable"),
            passthrough=route.get("passthrough", False),
            enable_websocket=bool(route.get("enable_websocket", service.get("enable_websocket"))),
            on_context_length=route.get("on_context_length", "answer"),
            on_stream_failure=route.get("on_stream_failure", "end"),
            mark=builder.mark(path),
        )
        return result if route.get("status", 1) == 1 else None

    def _upstream(self, owner: Values, path: Path, id: str) -> UpstreamConfig | None:
        """The upstream of a route or service. An upstream_id beats one that is written inside."""
        reference = self._reference(owner, "upstream_id", path, self._upstreams, "upstream")
        if reference:
            return self._upstreams.get(reference)
        if "upstream" not in owner:
            return None
        name = str(owner.get("name", id))
        return self._builder.upstream(owner["upstream"], (*path, "upstream"), name=name, id=id)

    def _reference(self, owner: Values, key: str, path: Path, known: dict[str, Any], what: str) -> str:
        """The id under key, "" without one; a mistake if nothing has it."""
        if key not in owner:
            return ""
        id = str(owner[key])
        if id not in known:
            near = nearest(id, known)
            self._builder.error(
                (*path, key), f"no {what} has the id {shown(id)}", f"did you mean {near}?" if near else ""
            )
        return id

    def _one_or_many(self, route: Values, key: str, path: Path) -> list[str]:
        if self._builder.document.is_written((*path, key)) and self._builder.document.is_written(
            (*path, f"{key}s")
        ):
            self._builder.error((*path, key), f"{key} and {key}s exclude each other", f"put all into {key}s")
        return [route[key]] if key in route else route.get(f"{key}s") or []
