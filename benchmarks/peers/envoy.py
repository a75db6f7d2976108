"""Envoy: one worker thread, a static configuration."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ..upstreams import Upstream
from .peer import Peer, first_line, installed

TYPE = "type.googleapis.com/envoy.extensions."


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def endpoints(port: int, priority: int) -> dict[str, Any]:
    return {"priority": priority, "lb_endpoints": [{"endpoint": {"address": address(port)}}]}


class Envoy(Peer):
    name = "envoy"
    title = "Envoy"

    def version(self) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)", first_line([str(installed("envoy", "envoy")), "--version"]))
        return found[1] if found else "?"

    def config(self, upstream: Upstream, port: int) -> dict[str, Any]:
        route = {
            "match": {"prefix": "/v1/"},
            "route": {
                "cluster": "nodes",
                "timeout": "600s",
                "retry_policy": {
                    "retry_on": "connect-failure,reset,gateway-error",
                    "num_retries": 1,
                    "retry_priority": {  # on the backup, not once more on the same one
                        "name": "envoy.retry_priorities.previous_priorities",
                        "typed_config": {
                            "@type": TYPE + "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                            "update_frequency": 1,
                        },
                    },
                },
            },
        }
        manager = {
            "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"},
                }
            ],
        }
        kinds = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
        many = dict.fromkeys(kinds, 16384)
        check = {
            "timeout": "1s",
            "interval": f"{upstream.probe_s}s",
            "unhealthy_threshold": 3,
            "healthy_threshold": 1,
            "http_health_check": {"path": "/"},
        }
        cluster: dict[str, Any] = {
            "name": "nodes",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [many]},
            "health_checks": [check],
            "outlier_detection": {"consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "1s"},
            "load_assignment": {
                "cluster_name": "nodes",
                "endpoints": [endpoints(upstream.port, 0), endpoints(upstream.backup_port, 1)],
            },
        }
        if upstream.is_tls:
            cluster["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": TYPE + "transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "localhost",
                    "common_tls_context": {
                        "tls_params": {
                            "tls_minimum_protocol_version": "TLSv1_3",
                            "tls_maximum_protocol_version": "TLSv1_3",
                        },
                        "validation_context": {"trusted_ca": {"filename": str(upstream.ca_file)}},
                    },
                },
            }
        chain = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        listener = {"name": "clients", "address": address(port), "filter_chains": [{"filters": [chain]}]}
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        path = self.processes.path("envoy.json")
        path.write_text(json.dumps(self.config(upstream, port), indent=2))
        program = str(installed("envoy", "envoy"))
        quiet = ["--disable-hot-restart", "--log-level", "error", "--use-dynamic-base-id"]
        return [program, "-c", str(path), "--concurrency", "1", *quiet]

    def env(self, upstream: Upstream) -> dict[str, str]:
        return {"ENVOY_UID": str(os.getuid())}
