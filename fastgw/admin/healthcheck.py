"""The health of nodes, in the shape of APISIX's control API and in our own."""

from __future__ import annotations

from time import monotonic
from typing import Any

from .._core import Node
from ..gateway import BuiltUpstream, Gateway

KINDS = ("routes", "services", "upstreams")


def _nodes(built: BuiltUpstream) -> list[dict[str, Any]]:
    check = built.config.active
    port = check.port if check is not None else None
    return [
        {
            "ip": node.host,
            "port": port or node.port,
            "hostname": node.host,
            "status": node.state.name.lower(),
            "counter": node.counters,
        }
        for node in built.upstream.nodes
    ]


def _checker(built: BuiltUpstream, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": built.config.active.type if built.config.active is not None else "http",
        "nodes": _nodes(built),
    }


def everything(gateway: Gateway) -> Any:
    """All checkers: a list, or an empty object when there is none (as APISIX has it)."""
    assert gateway.generation is not None
    checked = [
        _checker(built, f"/upstreams/{key}")
        for key, built in gateway.generation.upstreams.items()
        if built.config.active is not None or built.config.passive is not None
    ]
    return checked or {}


def one(gateway: Gateway, path: str) -> tuple[int, Any]:
    """``/v1/healthcheck/{kind}/{id}``: (status, value). An id or a name is accepted."""
    kind, _, wanted = path.removeprefix("/v1/healthcheck/").partition("/")
    if kind not in KINDS:
        return 400, {"error_msg": f"invalid src type {kind}"}
    assert gateway.generation is not None
    built = _find(gateway, kind, wanted)
    if built is None:
        return 404, {"error_msg": f"{kind}[{wanted}] not found"}
    if built.config.active is None and built.config.passive is None:
        return 404, {"error_msg": f"no checker for {kind}[{wanted}]"}
    return 200, _checker(built, f"/{kind}/{wanted}")


def _find(gateway: Gateway, kind: str, wanted: str) -> BuiltUpstream | None:
    generation = gateway.generation
    assert generation is not None
    if kind == "upstreams":
        for key, built in generation.upstreams.items():
            if wanted in (key, built.config.id, built.config.name):
                return built
        return None
    for route in generation.config.routes:
        names = (route.id, route.name) if kind == "routes" else (route.service,)
        if wanted in names and route.upstream is not None:
            return generation.upstreams.get(route.upstream.id or route.upstream.name)
    return None


def _node(node: Node, now: float) -> dict[str, Any]:
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "tier": node.priority,
        "weight": node.weight,
        "status": node.state.name.lower(),
        "available": node.is_available(now),
        "in_flight": node.in_flight,
        "ejected_s": round(max(0.0, node.ejected_until - now), 3),
        "cooling_s": round(max(0.0, node.cooling_until - now), 3),
        "dead_s": round(max(0.0, node.dead_until - now), 3),
        "picks": node.picks,
        "counter": node.counters,
    }


def upstreams(gateway: Gateway) -> list[dict[str, Any]]:
    """Every upstream with its nodes as they are now."""
    assert gateway.generation is not None
    now = monotonic()
    return [
        {
            "id": key,
            "name": built.config.name,
            "routes": built.route_ids,
            "nodes": [_node(node, now) for node in built.upstream.nodes],
            "connections": [pool.counts() for pool in built.pools],
        }
        for key, built in gateway.generation.upstreams.items()
    ]
