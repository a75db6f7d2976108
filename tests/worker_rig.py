"""Several workers as one command, seen from outside, and a node that knows who asks it.

Tests tell the workers apart by what only they have: a connection stays with the worker that took
it, request ids begin with a prefix of the worker's own, and ``/debug/counts`` says whose they are.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from command import FREE, PATIENCE_S, Process, admin_of, base_of, environment
from rig import KEYS, Providers, wait_until

from fastgw.simulator import start as start_simulator

T = TypeVar("T")

MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = json.dumps({"choices": [{"message": {"role": "assistant", "content": "yes"}}]}).encode()


# --- A node -----------------------------------------------------------------------------------


class Node:
    """A plain HTTP node in threads of the test.

    ``answer`` is called with the path and returns (status, fields); it may wait. ``tags`` are the
    "user" of what arrived, ``probing`` the processes that asked for ``/health``, in order.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str], tuple[int, dict[str, str]]] = lambda path: (200, {})
        self.tags: list[str] = []
        self.probing: list[int] = []
        self.candidates: Callable[[], list[int]] = list
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                if (pid := owner_of(self.client_address[1], node.candidates())) is not None:
                    node.probing.append(pid)
                self._reply(200, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                node.tags.append(body["user"])
                self._reply(*node.answer(self.path))

            def _reply(self, status: int, fields: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **fields}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(ANSWER)))
                self.end_headers()
                self.wfile.write(ANSWER)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a worker was killed while it was answered

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)


class Held:
    """Keeps a node's answers back until they may go on."""

    def __init__(self, node: Node) -> None:
        self._arrived, self._may_go_on = threading.Semaphore(0), threading.Event()
        node.answer = self._answer

    def _answer(self, path: str) -> tuple[int, dict[str, str]]:
        self._arrived.release()
        assert self._may_go_on.wait(PATIENCE_S)
        return 200, {}

    def wait_for_one(self) -> None:
        """Wait until one more request has come."""
        assert self._arrived.acquire(timeout=PATIENCE_S)

    def go_on(self) -> None:
        self._may_go_on.set()


def owner_of(port: int, pids: list[int]) -> int | None:
    """Which of these processes holds the socket that is bound to this port of ours, and connected."""
    wanted = f":{port:04X} "
    with open("/proc/net/tcp") as table:
        fields = [line.split() for line in table]
    inodes = {row[9] for row in fields[1:] if (row[1] + " ").endswith(wanted) and row[9] != "0"}
    for pid in pids:
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # it has ended, or closed the file
        if any(f"socket:[{inode}]" in links for inode in inodes):
            return pid
    return None


# --- The command ------------------------------------------------------------------------------


@dataclass
class Connection:
    """A client connection that stays with one worker."""

    http: http.client.HTTPConnection
    worker: str  # the prefix of its request ids

    def ask(self, tag: str = "") -> int:
        """Send a chat request; returns the status."""
        return request(self.http, tag)[0]


def request(connection: http.client.HTTPConnection, tag: str = "") -> tuple[int, str]:
    """(status, prefix of the request id); raises OSError or HTTPException if there is no answer."""
    body = json.dumps({"model": "m", "messages": MESSAGES, "user": tag})
    fields = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, fields)
    response = connection.getresponse()
    response.read()
    id = response.getheader("x-fastgw-request-id") or ""
    return response.status, id.rpartition("-")[0]


@dataclass
class Workers:
    """``fastgw run --workers N``."""

    process: Process
    count: int
    directory: Path
    address: tuple[str, int] = ("", 0)
    admin: tuple[str, int] = ("", 0)
    opened: list[http.client.HTTPConnection] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.popen.pid

    def children(self) -> list[int]:
        """Processes that the supervisor has now."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in text.split()]

    def open(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        connection.connect()
        self.opened.append(connection)
        return connection

    def one_of_each(self) -> list[Connection]:
        """A connection to each worker, sorted by nothing in particular."""
        found: dict[str, Connection] = {}

        def all_seen() -> bool:
            connection = self.open()
            status, worker = request(connection)
            assert status == 200
            found.setdefault(worker, Connection(connection, worker))
            return len(found) == self.count

        wait_until(all_seen, "every worker has taken a connection")
        return list(found.values())

    def ask_admin(self, path: str, method: str = "GET") -> Any:
        connection = http.client.HTTPConnection(*self.admin, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def counts(self) -> dict[int, dict[str, Any]]:
        """``/debug/counts`` of every worker, by its number; all are asked anew."""
        found: dict[int, dict[str, Any]] = {}

        def all_answered() -> bool:
            try:
                _, counts = self.ask_admin("/debug/counts")
            except (OSError, http.client.HTTPException):  # one was killed with our question in its hands
                return False
            found[counts["worker"]] = counts
            return len(found) == self.count

        wait_until(all_answered, "every worker has told its counts")
        return found

    def pids(self) -> dict[int, int]:
        """Worker number to process."""
        return {number: counts["pid"] for number, counts in self.counts().items()}

    def prober(self) -> dict[str, Any] | None:
        """The counts of the worker that probes, if there is one."""
        probers = [counts for counts in self.counts().values() if counts["is_prober"]]
        assert len(probers) <= 1
        return probers[0] if probers else None

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Every node by its name, as one of the workers sees it."""
        _, upstreams = self.ask_admin("/admin/upstreams")
        return {node["name"]: node for upstream in upstreams for node in upstream["nodes"]}

    def close(self) -> None:
        for connection in self.opened:
            connection.close()


def configuration(*nodes: Node, more: str = "", process: str = "") -> str:
    """Plain HTTP nodes, each in a tier of its own, the first one first."""
    lines = [
        f"        - {{name: n{tier}, host: 127.0.0.1, port: {node.port}, weight: 1, priority: {-tier}}}"
        for tier, node in enumerate(nodes)
    ]
    return "\n".join(
        [
            f"fastgw: {{{process}}}" if process else "",
            "services:",
            "  - name: llm",
            "    routes: [{name: all, uris: [/v1/*]}]",
            "    upstream:",
            "      scheme: http",
            "      nodes:",
            *lines,
            more,
            "",
        ]
    )


@contextmanager
def running_workers(
    directory: Path, config: str | None, *arguments: str, count: int = 2, **env: str
) -> Iterator[Workers]:
    """Start the command; None: without a configuration. Whatever it has forked is gone at the end."""
    flags = ["--workers", str(count), *FREE, "--access-log", "off", *arguments]
    if config is not None:
        (directory / "c.yaml").write_text(config)
        flags += ["-c", "c.yaml"]
    env = {"FASTGW_CORE_DUMPS": "1", **env}  # so that ``owner_of`` may look, whoever runs the tests
    process = Process("run", *flags, cwd=directory, env=environment(directory, **env))
    workers = Workers(process, count, directory)
    try:
        workers.address, workers.admin = base_of(process), admin_of(process)
        yield workers
    finally:
        workers.close()
        left = workers.children()
        process.__exit__()
        wait_until(lambda: not any(is_alive(pid) for pid in left), "all that was forked has ended")


@contextmanager
def held_request_in_each(workers: Workers, node: Node) -> Iterator[list[int]]:
    """Every worker has one request under way, whose answer the node keeps back.

    At the end of the block they are answered; then the statuses are in the list.
    """
    connections = workers.one_of_each()
    held = Held(node)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda c=c: statuses.append(c.ask())) for c in connections]
    try:
        for thread in threads:
            thread.start()
            held.wait_for_one()
        yield statuses
    finally:
        held.go_on()
        for thread in threads:
            if thread.ident is not None:
                thread.join(PATIENCE_S)


def is_alive(pid: int) -> bool:
    """A process that has ended may wait to be reaped by whoever inherited it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not re.match(r"\d+ \(.*\) [ZX]", stat, re.DOTALL)


# --- In front of the simulated providers ------------------------------------------------------


@dataclass
class WorkersRig(Providers):
    """What tests of failover use of ``rig.Rig``, with the gateway as several processes."""

    workers: Workers

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.workers.address)

    def counts(self) -> dict[str, int]:
        """The figures of all workers together."""
        counts = list(self.workers.counts().values())
        return {name: sum(c[name] for c in counts) for name in ("exchanges", "held_bytes", "requests")}


@contextmanager
def running_in_front(
    directory: Path, ca_dir: Path, config: str, *, count: int = 2, article: bool = False
) -> Iterator[WorkersRig]:
    """The simulated providers in a thread of the test, and workers in front of them."""
    # With asyncio's own loop (of 3.11) a connection stays unclosed that is accepted while its server is being
    # closed, as it is when a provider refuses from now on.
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="providers", daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_S)

    simulator = run(start_simulator(ca_dir=ca_dir, article=article))
    try:
        flags = ["--ca-file", simulator.ca_file]
        for host, port, to_host, to_port in simulator.connect_to:
            flags += ["--connect-to", f"{host}:{port}:{to_host}:{to_port}"]
        with running_workers(directory, config, *flags, count=count, **KEYS) as workers:
            yield WorkersRig(loop, simulator, workers)
    finally:
        run(simulator.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
