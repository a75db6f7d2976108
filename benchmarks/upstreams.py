"""What stands behind every gateway: nginx for answers, the C emitter for streams, both plain and TLS."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from . import programs
from .processes import LOAD_CORE, Process, Processes, StartFailed, free_port

# About 450 bytes, as a short chat answer is. nginx takes it in single quotes.
ANSWER = (
    '{"id":"chatcmpl-B1c2D3e4","object":"chat.completion","created":1795000000,"model":"gpt-5.2","choices":[{'
    '"index":0,"message":{"role":"assistant","content":"The answer to the question that was asked, in a '
    'sentence or two, as a model would give it to the caller."},"logprobs":null,"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":61,"completion_tokens":24,"total_tokens":85},"service_tier":"default",'
    '"system_fingerprint":"fp_44709d6fcb"}'
)

NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/upstream.pid;
error_log {directory}/upstream-error.log warn;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    client_max_body_size 16m;
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
    default_type application/json;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen 127.0.0.1:{backup_port} backlog=4096;
        listen 127.0.0.1:{tls_port} ssl backlog=4096;
        listen 127.0.0.1:{tls_backup_port} ssl backlog=4096;
        server_name _;
        location / {{ return 200 '{answer}'; }}
        location = /v1/responses {{
            set $k '{filler}';
            set $eight '$k$k$k$k$k$k$k$k';
            set $all '$eight$eight$eight$eight$eight$eight$eight$eight';
            return 200 '{{"id":"resp_1","object":"response","output":[{{"content":"$all"}}]}}';
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a gateway sends its requests: a node, and a backup that is used only if it fails."""

    port: int
    backup_port: int
    is_tls: bool = False
    ca_file: Path | None = None
    models: tuple[tuple[str, str], ...] = ()  # (glob, model): the gateway must look into the body
    probe_s: int = 1  # between two checks of a node, where the gateway has such

    @property
    def scheme(self) -> str:
        return "https" if self.is_tls else "http"


@dataclass(frozen=True, slots=True)
class Certificate:
    chain: Path
    key: Path
    ca: Path


def make_certificate(directory: Path) -> Certificate:
    """An ECDSA certificate for 127.0.0.1 and localhost, and the authority that signed it."""
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
    certificate = Certificate(directory / "chain.pem", directory / "key.pem", directory / "ca.pem")
    certificate.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(certificate.key)
    authority.cert_pem.write_to_path(certificate.ca)
    return certificate


class Upstreams:
    """Started when first asked for; they end with the other processes."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.certificate = make_certificate(processes.directory)
        self._nginx: dict[bool, Upstream] = {}
        self._emitters: dict[tuple[bool, int], tuple[int, Process]] = {}

    def answering(self, *, is_tls: bool = False, models: tuple[tuple[str, str], ...] = ()) -> Upstream:
        """nginx, which answers every request at once. Raises StartFailed."""
        if not self._nginx:
            self._start_nginx()
        known = self._nginx[is_tls]
        return Upstream(known.port, known.backup_port, is_tls, known.ca_file, models)

    def streaming(
        self, *, is_tls: bool = False, interval_us: int = 20_000, models: tuple[tuple[str, str], ...] = ()
    ) -> Upstream:
        """The emitter: streams on a schedule, and answers after it has read the whole body."""
        port = self._emitter(is_tls, interval_us)
        backup_port = self._emitter(is_tls, 1_000_000)
        return Upstream(port, backup_port, is_tls, self.certificate.ca if is_tls else None, models)

    def _emitter(self, is_tls: bool, interval_us: int) -> int:
        key = (is_tls, interval_us)
        if key not in self._emitters:
            program = programs.tls_emitter() if is_tls else programs.emitter()
            secrets = (self.certificate.chain, self.certificate.key) if is_tls else ()
            process = self.processes.start(
                "emitter", [program, "0", str(interval_us), *secrets], core=LOAD_CORE, is_piped=True
            )
            self._emitters[key] = (process.read_port(), process)
        return self._emitters[key][0]

    def _start_nginx(self) -> None:
        program = shutil.which("nginx")
        if program is None:
            raise StartFailed("there is no nginx to be the upstream (Debian: apt install nginx)")
        ports = [free_port() for _ in range(4)]
        config = self.processes.path("upstream.conf")
        config.write_text(
            NGINX.format(
                directory=self.processes.directory,
                certificate=self.certificate.chain,
                key=self.certificate.key,
                port=ports[0],
                backup_port=ports[1],
                tls_port=ports[2],
                tls_backup_port=ports[3],
                answer=ANSWER,
                filler="0123456789abcdef" * (1024 // 16),
            )
        )
        process = self.processes.start("upstream-nginx", [program, "-c", config], core=LOAD_CORE)
        process.wait_listening(ports[0])
        self._nginx = {
            False: Upstream(ports[0], ports[1]),
            True: Upstream(ports[2], ports[3], True, self.certificate.ca),
        }
