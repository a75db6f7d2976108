"""The LiteLLM proxy: one worker, one model with a fallback."""

from __future__ import annotations

import json
from typing import Any

from ..requests import MODEL
from ..upstreams import Upstream
from .peer import Peer, installed, package_version


class LiteLLM(Peer):
    name = "litellm"
    title = "LiteLLM proxy"
    start_limit_s = 90.0
    max_connections = 8
    streams = 10

    def version(self) -> str:
        return package_version("litellm", "litellm")

    def config(self, upstream: Upstream) -> dict[str, Any]:
        def model(name: str, port: int) -> dict[str, Any]:
            base = f"{upstream.scheme}://127.0.0.1:{port}/v1"
            return {
                "model_name": name,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": base, "api_key": "bench"},
            }

        return {
            "model_list": [model(MODEL, upstream.port), model("backup", upstream.backup_port)],
            "litellm_settings": {
                "telemetry": False,
                "fallbacks": [{MODEL: ["backup"]}],
                "ssl_verify": str(upstream.ca_file) if upstream.ca_file is not None else True,
            },
        }

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        path = self.processes.path("litellm.yaml")
        path.write_text(json.dumps(self.config(upstream), indent=2))
        program = str(installed("litellm", "litellm"))
        return [
            *(program, "--config", str(path), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ]

    def env(self, upstream: Upstream) -> dict[str, str]:
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the one it brings along: there is no network
            "LITELLM_LOG": "ERROR",
            "DISABLE_ADMIN_UI": "True",
            # Loopback only, and no other peer asks for a key here.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        if upstream.ca_file is not None:
            env["SSL_CERT_FILE"] = str(upstream.ca_file)
        return env
