"""Faulty hosts, ``fastgw run`` with two workers in front of them, and what is left to read of both."""

from __future__ import annotations

import http.client
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker_rig import Workers, running_workers

from .badhost import BadHosts, Report, bad_hosts, host_name

DEADLINES = {
    "connect": 2.0,
    "head": 2.0,
    "head_stream": 2.0,
    "first_content": 2.0,
    "first_content_stream": 2.0,
    "progress": 2.0,
    "idle": 2.0,
    "total": 30.0,
}
PATIENT = {**dict.fromkeys(DEADLINES, 20.0), "total": 60.0}  # nobody waits for one of these
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_SUPERVISOR = re.compile(r" (error|warning) +fastgw\.supervisor: ")
_LINE = re.compile(r'" (\d+) \d+ request_id=(\S+) .* attempts=(\S+) note=(\S+)$')


@dataclass(frozen=True)
class Line:
    """What the access log says of one request; ``attempts`` are (node, outcome, status, seconds)."""

    status: int
    attempts: list[tuple[str, ...]]
    note: str


@dataclass
class Stage:
    """What a goal uses."""

    directory: Path
    hosts: BadHosts
    workers: Workers

    @property
    def address(self) -> tuple[str, int]:
        return self.workers.address

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric's samples that have these labels (``cause="x"``), of all workers."""
        connection = http.client.HTTPConnection(*self.workers.admin, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        assert f"# TYPE {name} " in text, f"there is no metric {name}"
        return sum(
            float(value)
            for sample, given, value in _SAMPLE.findall(text)
            if sample == name and all(label in given for label in labels)
        )

    def report(self) -> Report:
        return self.hosts.report(self.directory)

    def access_log(self) -> dict[str, Line]:
        """Ends the gateway, and returns what it has logged, by request id."""
        self.workers.process.send(signal.SIGTERM)
        self.workers.process.ended()
        lines = {}
        with (self.directory / "access.log").open() as log:
            for text in log:
                found = _LINE.search(text)
                assert found, text
                status, id, attempts, note = found.groups()
                tried = [tuple(one.rsplit(":", 3)) for one in attempts.split(",") if one != "-"]
                lines[id] = Line(int(status), tried, note)
        return lines

    @property
    def errors(self) -> list[str]:
        """What the gateway has said on standard error that is a fault of its own, dead workers too."""
        return [
            line
            for line in self.workers.process.err.splitlines()
            if "Traceback" in line or "Error:" in line or _SUPERVISOR.search(line)
        ]


def configuration(
    routes: list[tuple[str, list[int]]],
    *,
    process: str = "",
    ejects: bool = True,
    deadlines: Mapping[str, float] = DEADLINES,
) -> str:
    """A configuration: for each route (path prefix, numbers of hosts) an upstream of its own.

    Args:
        process: more fields of ``fastgw``, as flow YAML.
        ejects: False: no failure takes a node out.
    """
    limits = ", ".join(f"{name}: {value}" for name, value in deadlines.items())
    text = [
        "fastgw: {account_checks: false, dead_reprobe: 1, drain: 5%s}" % (process and ", " + process),
        "services:",
    ]
    for number, (prefix, hosts) in enumerate(routes):
        text += [
            f"  - name: s{number}",
            f"    routes: [{{name: r{number}, uris: ['{prefix}/*'], deadlines: {{{limits}}}}}]",
            "    upstream:",
            "      scheme: https",
            "      nodes:",
        ]
        text += [
            f"        - {{host: {host_name(host)}, port: 443, weight: 1, provider: openai,"
            f' auth: {{header: {{Authorization: "Bearer chaos-{host}"}}}}}}'
            for host in hosts
        ]
        if not ejects:
            text.append(
                "      checks: {active: {type: tcp, healthy: {interval: 3600}, unhealthy: {interval: 3600}},"
                " passive: {unhealthy: {http_failures: 0, tcp_failures: 0, timeouts: 0}}}"
            )
    return "\n".join(text) + "\n"


@contextmanager
def stage(count: int, seed: int, config: str, *, workers: int = 2) -> Iterator[Stage]:
    """Start everything; it is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="fastgw-chaos-") as name:
        directory = Path(name)
        with bad_hosts(directory, count, seed) as hosts:
            assert hosts.certificates is not None
            flags = [
                "--ca-file",
                str(hosts.certificates.ca_file),
                "--access-log",
                str(directory / "access.log"),
            ]
            for number, port in enumerate(hosts.ports):
                flags += ["--connect-to", f"{host_name(number)}:443:127.0.0.1:{port}"]
            with running_workers(directory, config, *flags, count=workers) as running:
                yield Stage(directory, hosts, running)
