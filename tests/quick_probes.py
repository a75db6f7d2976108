"""Probes in a quicker rhythm than a file may ask for, so that tests need not wait whole seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastgw.config.model import Config, UpstreamConfig


def quick_probes(config: Config, interval_s: float = 0.02, **changes: Any) -> Config:
    """The same configuration with its probes every ``interval_s``; ``changes`` are fields of ActiveCheck.

    Routes that share an upstream go on sharing it.
    """
    known: dict[int, UpstreamConfig] = {}
    routes = []
    for route in config.routes:
        upstream = route.upstream
        if upstream is not None and upstream.active is not None:
            if id(upstream) not in known:
                active = replace(
                    upstream.active,
                    healthy_interval_s=interval_s,
                    unhealthy_interval_s=interval_s,
                    **changes,
                )
                known[id(upstream)] = replace(upstream, active=active)
            route = replace(route, upstream=known[id(upstream)])
        routes.append(route)
    return replace(config, routes=tuple(routes))
