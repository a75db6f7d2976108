"""fastgw itself, as it is run: one worker, all features on, the access log off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..upstreams import Upstream
from .peer import Peer, own_python

ROOT = Path(__file__).resolve().parents[2]


class Fastgw(Peer):
    name = "fastgw"
    title = "fastgw"
    has_many_rounds = True

    def version(self) -> str:
        from fastgw import __version__
        from fastgw.proxy import exchange

        form = "interpreted" if exchange.__file__.endswith(".py") else "compiled"
        return f"{__version__} ({form})"

    def config(self, upstream: Upstream, port: int) -> dict[str, Any]:
        """An LLM route with two tiers, active and passive checks; JSON is YAML."""
        node: dict[str, Any] = {"host": "127.0.0.1", "provider": "openai-compatible"}
        if upstream.models:
            node["models"] = dict(upstream.models)
        tier_0 = {"port": upstream.port, "weight": 100, "auth": {"header": {"Authorization": "Bearer bench"}}}
        tier_1 = {"port": upstream.backup_port, "weight": 1, "priority": -1}
        found: dict[str, Any] = {
            "scheme": upstream.scheme,
            "type": "roundrobin",
            "nodes": [{**node, **tier_0}, {**node, **tier_1}],
            "keepalive_pool": {"size": 4096, "idle_timeout": 60, "requests": 2_000_000_000},
            "checks": {
                "active": {
                    "type": upstream.scheme,
                    "http_path": "/",
                    "healthy": {"interval": upstream.probe_s, "successes": 1},
                    "unhealthy": {"interval": upstream.probe_s, "http_failures": 3},
                },
                "passive": {"healthy": {"successes": 1}, "unhealthy": {"http_failures": 3}},
            },
        }
        if upstream.ca_file is not None:
            found["ca_file"] = str(upstream.ca_file)
        process = {"listen": [f"127.0.0.1:{port}"], "admin": "127.0.0.1:0", "access_log": "off"}
        routes = [{"name": "llm", "uris": ["/v1/*"]}]
        return {"fastgw": process, "services": [{"name": "bench", "routes": routes, "upstream": found}]}

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        path = self.processes.path("fastgw.yaml")
        path.write_text(json.dumps(self.config(upstream, port), indent=2))
        # What counts its calls and instructions attaches to it.
        options = ["--log-level", "warning", "--core-dumps"]
        return [own_python(), "-m", "fastgw", "run", "-c", str(path), *options]

    def cwd(self) -> Path:
        return ROOT
