"""The health of nodes, in the shape of APISIX's control API and in our own."""

from __future__ import annotations

from time import monotonic
from typing import Any
from urllib.parse import unquote

from .._core import Node
from ..balancing.upstream import Upstream
from ..config.model import RouteConfig, UpstreamConfig
from ..gateway import Gateway
from ..generation import BuiltUpstream
from .readiness import Account, accounts_in, checked_intervals, labelled, readiness_of

KINDS = ("routes", "services", "upstreams", "stream_routes")


# --- As APISIX shows it -----------------------------------------------------------------------


def everything(gateway: Gateway) -> Any:
    """All checkers: a list, or an empty object when there is none (as APISIX has it)."""
    assert gateway.generation is not None
    checked = [
        _checker(built, f"/{owner_of(built.config)}/{built.config.id}")
        for built in gateway.generation.upstreams.values()
        if _is_checked(built)
    ]
    return checked or {}


def one(gateway: Gateway, path: str) -> tuple[int, Any]:
    """``/v1/healthcheck/{kind}/{id}``: (status, value). An id or a name is accepted."""
    kind, _, wanted = path.removeprefix("/v1/healthcheck/").partition("/")
    kind, wanted = unquote(kind), unquote(wanted)
    if kind not in KINDS:
        return 400, {"error_msg": f"invalid src type {kind}"}
    found = _find(gateway, kind, wanted)
    if found is None:
        return 404, {"error_msg": f"{kind}[{wanted}] not found"}
    id, built = found
    if built is None or not _is_checked(built):
        return 404, {"error_msg": f"no checker for {kind}[{wanted}]"}
    return 200, _checker(built, f"/{kind}/{id}")


def owner_of(upstream: UpstreamConfig) -> str:
    """The kind of object in the file that an upstream belongs to: it shares that one's id."""
    return upstream.owner if upstream.owner in KINDS else "upstreams"


def _is_checked(built: BuiltUpstream) -> bool:
    return built.config.is_probed or built.config.passive is not None


def _checker(built: BuiltUpstream, name: str) -> dict[str, Any]:
    kind = "http"
    nodes: dict[tuple[str, int], dict[str, Any]] = {}
    for node, config in zip(built.upstream.nodes, built.config.nodes, strict=True):
        check = built.config.check_of(config)
        if check is not None:
            kind = check.type
        shown_port = (check.port if check is not None else None) or node.port
        # Two that are probed at the same place are shown once.
        nodes.setdefault(
            (node.host, shown_port),
            {
                "ip": node.host,
                "port": shown_port,
                "hostname": node.host,
                "status": node.state.name.lower(),
                "counter": node.counters,
            },
        )
    return {
        "name": name,
        "type": kind,
        "nodes": list(nodes.values()),
    }


def _find(gateway: Gateway, kind: str, wanted: str) -> tuple[str, BuiltUpstream | None] | None:
    """(id, upstream) of what is asked for; None if there is no such thing."""
    generation = gateway.generation
    assert generation is not None
    if kind == "upstreams":
        # Those that are written inside a route or a service are found, too, after the others.
        shared_first = sorted(
            generation.upstreams.values(), key=lambda built: owner_of(built.config) != "upstreams"
        )
        for built in shared_first:
            if wanted in (built.config.id, built.config.name):
                return built.config.id, built
        return None
    for route in generation.config.routes:
        id = route.id if kind == "routes" else _service_id(route)
        names = (route.id, route.name) if kind == "routes" else (id, route.service)
        if kind != "stream_routes" and id is not None and wanted in names:
            return id, _built(gateway, route.upstream)
    return None


def _service_id(route: RouteConfig) -> str | None:
    """The id of a route's service, as far as the upstream tells it; else its name."""
    if route.service is not None and route.upstream is not None and owner_of(route.upstream) == "services":
        return route.upstream.id
    return route.service


def _built(gateway: Gateway, config: UpstreamConfig | None) -> BuiltUpstream | None:
    assert gateway.generation is not None
    for built in gateway.generation.upstreams.values():
        if built.config is config:
            return built
    return None


# --- As we show it ----------------------------------------------------------------------------


def upstreams(gateway: Gateway) -> list[dict[str, Any]]:
    """Every upstream with its nodes as they are now; times are seconds from now."""
    now = monotonic()
    accounts = accounts_in(gateway.recorder.metrics.collect())
    shown = []
    for label, built in labelled(gateway):
        readiness = readiness_of(built, label, accounts, now)
        intervals = checked_intervals(built)
        shown.append(
            {
                "id": built.config.id,
                "name": built.config.name,
                "routes": built.route_ids,
                "backup_ready": readiness.ready,
                "preferred": readiness.preferred,
                "reasons": readiness.reasons,
                "nodes": [
                    _node(node, now)
                    | {"account": _account(node.name in intervals, accounts.get((label, node.name)), now)}
                    | {"models": _models(built.upstream, position, now)}
                    for position, node in enumerate(built.upstream.nodes)
                ],
                "connections": [pool.counts() for pool in built.pools],
            }
        )
    return shown


def _account(is_checked: bool, account: Account | None, now: float) -> dict[str, Any] | None:
    """The last account check of a node; None: there is none for it."""
    if not is_checked:
        return None
    if account is None:
        return {"standing": "unchecked", "checked_s": None, "missing_models": ()}
    return {
        "standing": account.standing,
        "checked_s": round(max(0.0, now - account.checked_at), 3),
        "missing_models": account.missing,
    }


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
        "ejected_s": _left(node.ejected_until, now),
        "cooling_s": _left(node.cooling_until, now),
        "dead_s": _left(node.dead_until, now),
        "ramping": node.ramp_from > 0,
        "picks": node.picks,
        "counter": node.counters,
    }


def _models(upstream: Upstream, position: int, now: float) -> list[dict[str, Any]]:
    """The models that are left alone on a node, as the process that answers knows it."""
    return [
        {"model": rest.model, "reason": rest.reason, "rests_s": _left(rest.until, now)}
        for rest in upstream.models.resting(position, now)
    ]


def _left(until: float, now: float) -> float:
    return round(max(0.0, until - now), 3)
