"""vllm-router, an LLM router in Rust: one worker thread of its runtime, round robin."""

from __future__ import annotations

from ..upstreams import Upstream
from .peer import Peer, installed, package_version


class VllmRouter(Peer):
    name = "vllm-router"
    title = "vllm-router"
    start_limit_s = 40.0

    def version(self) -> str:
        return package_version("vllm-router", "vllm-router")

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        program = str(installed("vllm-router", "vllm-router"))
        nodes = [f"{upstream.scheme}://127.0.0.1:{upstream.port}"]
        return [
            *(program, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"),
            *("--log-level", "error", "--worker-urls", *nodes),
        ]

    def env(self, upstream: Upstream) -> dict[str, str]:
        env = {"TOKIO_WORKER_THREADS": "1"}
        if upstream.ca_file is not None:
            env["SSL_CERT_FILE"] = str(upstream.ca_file)
        return env
