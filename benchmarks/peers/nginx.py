"""nginx: one worker, a pool of upstream connections, a backup server."""

from __future__ import annotations

from ..upstreams import Upstream
from .peer import Peer, first_line, program

CONFIG = """\
daemon off;
worker_processes 1;
pid {directory}/proxy-{port}.pid;
error_log {directory}/proxy-{port}.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {directory}/proxy-body-{port};
    proxy_temp_path {directory}/proxy-temp-{port};
    client_body_buffer_size 1m;
    client_max_body_size 16m;
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
    upstream node {{
        server 127.0.0.1:{node} max_fails=3 fail_timeout=1s;
        server 127.0.0.1:{backup} backup;
        keepalive 4096;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /v1/ {{
            proxy_pass {scheme}://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout http_502 http_503 non_idempotent;
            proxy_read_timeout 600;
            proxy_buffering {buffering};
            {tls}
        }}
    }}
}}
"""
TLS = """\
proxy_ssl_protocols TLSv1.3;
            proxy_ssl_name localhost;
            proxy_ssl_trusted_certificate {ca_file};
            proxy_ssl_verify on;"""


class Nginx(Peer):
    name = "nginx"
    title = "nginx"
    has_many_rounds = True

    def version(self) -> str:
        return first_line([program("nginx", "nginx"), "-v"]).rpartition("/")[2]

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        path = self.processes.path("nginx.conf")
        path.write_text(
            CONFIG.format(
                directory=self.processes.directory,
                port=port,
                node=upstream.port,
                backup=upstream.backup_port,
                scheme=upstream.scheme,
                buffering="off" if streams else "on",
                tls=TLS.format(ca_file=upstream.ca_file) if upstream.is_tls else "",
            )
        )
        return [program("nginx", "nginx"), "-c", str(path)]

    def command_alone(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        return [*self.command(upstream, port, streams=streams), "-g", "master_process off;"]
