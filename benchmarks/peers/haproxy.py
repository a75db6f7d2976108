"""HAProxy: one thread, checks of both servers, connections to them shared by all clients."""

from __future__ import annotations

from ..upstreams import Upstream
from .peer import Peer, first_line, program

CONFIG = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 3600s
    http-reuse always
    retries 2
    option redispatch 1
    retry-on conn-failure empty-response response-timeout 502 503
frontend clients
    bind 127.0.0.1:{port} backlog 4096
    default_backend nodes
backend nodes
    option httpchk GET /
    server node 127.0.0.1:{node} check inter {probe_s}s pool-max-conn 4096{tls}
    server backup 127.0.0.1:{backup} check inter {probe_s}s backup{tls}
"""


class HAProxy(Peer):
    name = "haproxy"
    title = "HAProxy"
    has_many_rounds = True

    def version(self) -> str:
        return first_line([program("haproxy", "haproxy"), "-v"]).split()[2]

    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        tls = (
            f" ssl verify required ca-file {upstream.ca_file} ssl-min-ver TLSv1.3" if upstream.is_tls else ""
        )
        path = self.processes.path("haproxy.cfg")
        ports = {"port": port, "node": upstream.port, "backup": upstream.backup_port}
        path.write_text(CONFIG.format(**ports, probe_s=upstream.probe_s, tls=tls))
        return [program("haproxy", "haproxy"), "-db", "-f", str(path)]
