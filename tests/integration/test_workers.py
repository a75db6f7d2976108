"""`fastgw run --workers 2`: real processes, killed, stopped and told to end.

What one worker finds out all know; what one takes with it when it dies is no more than what it had
in its hands.
"""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import pytest
from command import FREE, PATIENCE_S, Process, ask, environment
from rig import wait_until
from worker_rig import (
    Held,
    Node,
    Workers,
    configuration,
    held_request_in_each,
    is_alive,
    request,
    running_workers,
)

ACTIVE = """\
      checks:
        active:
          http_path: /health
          healthy: {interval: 1, successes: 1}
          unhealthy: {interval: 1, http_failures: 1}
"""


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture
def backup() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture
def workers(tmp_path: Path, node: Node) -> Iterator[Workers]:
    with running_workers(tmp_path, configuration(node)) as workers:
        yield workers


def refused(directory: Path, *arguments: str) -> Process:
    process = Process("run", "--workers", "2", *arguments, cwd=directory, env=environment(directory))
    with process:
        process.ended()
    return process


# --- Starting ---------------------------------------------------------------------------------


def test_all_workers_take_connections_of_one_port(workers: Workers) -> None:
    first, second = workers.one_of_each()
    for _ in range(3):
        assert first.ask() == second.ask() == 200
    counts = workers.counts()
    assert {number: count["workers"] for number, count in counts.items()} == {0: 2, 1: 2}
    assert sum(count["requests"] for count in counts.values()) >= 8
    assert len({workers.pid, *workers.pids().values()}) == 3
    assert "  workers  2\n" in workers.process.err


def test_an_answer_of_the_admin_port_says_which_worker_gave_it(workers: Workers) -> None:
    connection = http.client.HTTPConnection(*workers.admin, timeout=PATIENCE_S)
    connection.request("GET", "/livez")
    response = connection.getresponse()
    response.read()
    assert response.getheader("x-fastgw-worker") in ("0", "1")
    connection.close()


def test_workers_share_a_unix_socket_and_it_is_gone_afterwards(tmp_path: Path, node: Node) -> None:
    path = tmp_path / "s"
    with running_workers(
        tmp_path, configuration(node), "--listen", f"unix:{path}", "--listen", "127.0.0.1:0"
    ) as w:
        seen: set[str] = set()

        def both_have_answered() -> bool:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            status, worker = request(connection)
            connection.close()
            assert status == 200
            seen.add(worker)
            return len(seen) == 2

        wait_until(both_have_answered, "both workers have answered at the path")
        os.kill(next(iter(w.pids().values())), signal.SIGKILL)
        wait_until(lambda: len(w.children()) == 2, "the worker is back")
        seen.clear()
        wait_until(both_have_answered, "both workers have answered at the path")
        w.process.send(signal.SIGTERM)
        assert w.process.ended() == 0
    assert not path.exists()


@pytest.mark.parametrize("which", ["--listen", "--admin"])
@pytest.mark.parametrize("shares_port", [False, True])
def test_a_port_in_use_ends_with_3_and_names_the_address(
    tmp_path: Path, which: str, shares_port: bool
) -> None:
    other = "--admin" if which == "--listen" else "--listen"
    with socket.create_server(("127.0.0.1", 0), reuse_port=shares_port) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = refused(tmp_path, which, address, other, "127.0.0.1:0")
    assert process.popen.returncode == 3
    assert process.err == f"fastgw: cannot listen on {address}: Address already in use\n"


def test_a_refused_configuration_ends_with_78(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("services: [{name: 1, routs: []}]\n")
    process = refused(tmp_path, *FREE)
    assert process.popen.returncode == 78
    assert "refused the configuration" in process.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"), "set an admin token"),
        ((*FREE, "--access-log", "no/such/directory"), "No such file or directory"),
    ],
)
def test_what_a_worker_refuses_ends_all_with_78_and_is_said_once(
    tmp_path: Path, node: Node, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "gateway.yaml").write_text(configuration(node))
    process = refused(tmp_path, *arguments)
    assert process.popen.returncode == 78
    assert process.err.count("refused the configuration: 1 error\n") == 1
    assert process.err.count(said) == 1


def test_more_nodes_than_there_is_room_for_are_refused_with_the_figure(tmp_path: Path) -> None:
    nodes = ", ".join(f"{{host: 10.0.{n >> 8}.{n & 255}, port: 80, weight: 1}}" for n in range(1000))
    (tmp_path / "gateway.yaml").write_text(
        "services:\n"
        + "".join(
            f"  - {{name: s{n}, routes: [{{name: r{n}, uris: [/{n}]}}], "
            f"upstream: {{scheme: http, nodes: [{nodes}]}}}}\n"
            for n in range(2)
        )
    )
    process = refused(tmp_path, *FREE)
    assert process.popen.returncode == 78
    assert "2000 nodes in all upstreams: there is room for 1024" in process.err


def test_the_supervisor_has_one_thread_and_sleeps_while_workers_serve(workers: Workers, node: Node) -> None:
    def status() -> dict[str, str]:
        lines = Path(f"/proc/{workers.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    connections = workers.one_of_each()
    before, begun = status(), monotonic()
    for _ in range(150):
        for connection in connections:
            assert connection.ask() == 200
    after, took = status(), monotonic() - begun
    assert before["Threads"] == after["Threads"] == "1"
    woken = int(after["voluntary_ctxt_switches"]) - int(before["voluntary_ctxt_switches"])
    assert woken <= 5 + 2 * took  # it looks for hanging workers every 2.5 s


# --- One truth about health -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields", "shown"),
    [(401, {}, "dead_s"), (429, {"retry-after": "60"}, "cooling_s")],
    ids=["401", "429"],
)
def test_a_node_that_failed_in_one_worker_is_not_picked_in_the_other(
    tmp_path: Path, node: Node, backup: Node, status: int, fields: dict[str, str], shown: str
) -> None:
    # Of a provider whose limits are the account's: of single models each worker learns by itself.
    config = configuration(node, backup).replace("name: n0,", "name: n0, provider: openai-compatible,")
    with running_workers(tmp_path, config) as workers:
        first, second = workers.one_of_each()
        node.answer = lambda path: (status, fields)
        node.tags.clear()
        assert first.ask("of-the-first") == 200
        for _ in range(5):
            assert second.ask("of-the-second") == 200
        assert node.tags == ["of-the-first"]
        assert backup.tags == ["of-the-first", *["of-the-second"] * 5]
        for _ in range(4):  # whichever worker answers
            assert workers.nodes()["n0"][shown] > 0
        # Nor in one that is started afterwards.
        victim = next(iter(workers.pids().values()))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in workers.children() and len(workers.children()) == 2, "it is back")
        for connection in workers.one_of_each():
            assert connection.ask() == 200
        assert node.tags == ["of-the-first"]


def test_a_limit_of_requests_in_flight_holds_over_all_workers(
    tmp_path: Path, node: Node, backup: Node
) -> None:
    config = configuration(node, backup).replace("name: n0,", "name: n0, max_in_flight: 1,")
    with running_workers(tmp_path, config) as workers:
        first, second = workers.one_of_each()
        # A client has its answer a moment before the node's place is free.
        wait_until(lambda: not any(n["in_flight"] for n in workers.nodes().values()), "the node is free")
        held = Held(node)
        holder = threading.Thread(target=first.ask, args=("held",))
        holder.start()
        held.wait_for_one()
        backup.tags.clear()
        assert second.ask("elsewhere") == 200
        assert backup.tags == ["elsewhere"]
        held.go_on()
        holder.join(PATIENCE_S)
        wait_until(lambda: workers.nodes()["n0"]["in_flight"] == 0, "nothing is in flight")


def test_one_worker_probes_and_another_takes_over_when_it_dies(tmp_path: Path, node: Node) -> None:
    with running_workers(tmp_path, configuration(node, more=ACTIVE)) as workers:
        node.candidates = workers.children
        wait_until(lambda: len(node.probing) >= 3, "three probes")
        assert len(set(node.probing)) == 1
        killed = node.probing[0]
        prober = workers.prober()
        assert prober is not None and prober["pid"] == killed
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in node.probing[-3:], "three probes of another worker")
        assert len(set(node.probing)) == 2
        prober = workers.prober()
        assert prober is not None and prober["pid"] == node.probing[-1]


# --- Death ------------------------------------------------------------------------------------


class Load:
    """Clients that ask all the time, on connections that they keep."""

    CLIENTS = 4

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.answered = 0
        self.lost: list[tuple[float, str]] = []  # when, and whose connection it was ("" if unknown)
        self.begun: dict[str, float] = {}  # worker -> when its latest answered request was begun
        self.wrong: list[Any] = []
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        worker, uses = "", 0
        while not self._ends.is_set():
            begun = monotonic()
            try:
                if connection is None:
                    connection, worker, uses = (
                        http.client.HTTPConnection(*self.workers.address, timeout=30),
                        "",
                        0,
                    )
                    connection.connect()
            except OSError as error:
                self.wrong.append(error)
                return
            try:
                status, worker = request(connection)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.lost.append((monotonic(), worker))
                connection.close()
                connection = None
                continue
            with self._lock:
                self.answered += 1
                self.begun[worker] = max(begun, self.begun.get(worker, 0.0))
                if status != 200:
                    self.wrong.append(status)
            uses += 1
            if uses % 20 == 0:
                connection.close()
                connection = None
            sleep(0.005)
        if connection is not None:
            connection.close()


def kill_again_and_again(workers: Workers, node: Node, times: int, pause_s: float) -> None:
    """``kill -9`` one of two workers under load; check what was lost, and what is left in the end."""
    slowest = 0.0
    with Load(workers) as load:
        for turn in range(times):
            pids = workers.pids()
            victim = pids[turn % 2]
            before = load.answered
            killed_at = monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda v=victim: v not in workers.children(), "it is reaped")
            wait_until(lambda: len(workers.children()) == 2, "another one is started")
            replaced = workers.pids()
            assert replaced[1 - turn % 2] == pids[1 - turn % 2]
            slowest = max(slowest, monotonic() - killed_at)
            wait_until(lambda n=before: load.answered > n + 20, "requests are answered")
            sleep(max(0.0, pause_s - (monotonic() - killed_at)))
    assert load.wrong == []  # no connection was refused, no answer was an error
    assert len(load.lost) <= times * load.CLIENTS
    # Whoever's connection broke was dead: nothing that was begun later has been answered by it.
    assert [lost for lost in load.lost if lost[1] and load.begun[lost[1]] > lost[0]] == []
    # A client has its answer a moment before the node's place is free.
    wait_until(lambda: workers.nodes()["n0"]["in_flight"] == 0, "nothing is in flight")
    states = [workers.nodes()["n0"] for _ in range(4)]
    assert {(state["in_flight"], state["available"]) for state in states} == {(0, True)}
    assert len({state["picks"] for state in states}) == 1
    assert load.answered <= states[0]["picks"] <= load.answered + len(load.lost)
    assert workers.prober() is not None
    print(
        f"\n{times} kills: {load.answered} answered, {len(load.lost)} lost, "
        f"both workers answer again after {slowest:.2f} s at most"
    )


def test_a_killed_worker_takes_only_its_own_requests_with_it(workers: Workers, node: Node) -> None:
    kill_again_and_again(workers, node, 3, 1.2)


@pytest.mark.long
def test_twenty_kills_two_seconds_apart(workers: Workers, node: Node) -> None:
    kill_again_and_again(workers, node, 20, 2.0)


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path, node: Node) -> None:
    with running_workers(tmp_path, configuration(node), FASTGW_WORKER_TIMEOUT="2") as workers:
        stopped = workers.pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        workers.process.saw(rf"worker 0 \(pid {stopped}\) has stood still for [\d.]+ s: ending it")
        workers.process.saw(rf"worker 0 \(pid {stopped}\) was killed by SIGKILL")
        assert workers.pids()[0] != stopped
        for connection in workers.one_of_each():
            assert connection.ask() == 200


def test_a_supervisor_without_descriptors_ends_nobody_and_goes_on_when_there_are_some(
    workers: Workers,
) -> None:
    supervisor, process = workers.process.popen.pid, workers.process
    before = workers.pids()
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
    process.send(signal.SIGHUP)
    process.saw(r"reload refused[^\0]*Too many open files[^\0]*nobody can be told refused")
    assert workers.pids() == before
    os.kill(before[0], signal.SIGKILL)
    process.saw(r"worker 0 cannot be started \(Too many open files\)")
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    for connection in workers.one_of_each():
        assert connection.ask() == 200
    process.send(signal.SIGHUP)
    process.saw(r"worker 0: configuration reloaded: <Generation 2 ")
    process.saw(r"worker 1: configuration reloaded: <Generation 2 ")


def test_workers_end_when_the_supervisor_is_killed(workers: Workers, node: Node) -> None:
    with held_request_in_each(workers, node) as statuses:
        left = workers.children()
        assert len(left) == 2
        workers.process.send(signal.SIGKILL)
        workers.process.popen.wait(PATIENCE_S)
        workers.process.saw(r"worker \d: the supervisor is gone[^\0]*draining: requests in flight: 1")
    assert statuses == [200, 200]
    wait_until(lambda: not any(is_alive(pid) for pid in left), "both workers have ended")


def test_simulated_providers_outlive_workers_and_end_with_the_supervisor(tmp_path: Path) -> None:
    with running_workers(tmp_path, None) as workers:
        assert "in a process beside these" in workers.process.err
        for number in (0, 1):
            victim = workers.pids()[number]
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda victim=victim: victim not in workers.children() and len(workers.children()) == 3,  # type: ignore[misc]
                "it is back",
            )
        assert ask(workers.address)[0] == 200
        (providers,) = set(workers.children()) - set(workers.pids().values())
        workers.process.send(signal.SIGUSR1)
        workers.process.saw(r"reopened the access log[^\0]*reopened the access log")
        assert ask(workers.address)[0] == 200
        assert providers in workers.children()
        # They come back themselves, to the same place.
        os.kill(providers, signal.SIGKILL)
        workers.process.saw(rf"simulated providers \(pid {providers}\) was killed by SIGKILL")
        wait_until(lambda: ask(workers.address)[0] == 200, "the providers are back")
        left = workers.children()
        workers.process.send(signal.SIGTERM)
        assert workers.process.ended() == 0
        assert not any(is_alive(pid) for pid in left)


# --- Signals ----------------------------------------------------------------------------------


def generations(workers: Workers) -> dict[int, int]:
    return {number: counts["generation"] for number, counts in workers.counts().items()}


def test_a_hangup_reloads_all_and_who_is_started_later_has_it_too(
    tmp_path: Path, workers: Workers, node: Node, backup: Node
) -> None:
    (tmp_path / "c.yaml").write_text(configuration(backup))
    workers.process.send(signal.SIGHUP)
    wait_until(lambda: generations(workers) == {0: 2, 1: 2}, "all have reloaded")
    node.tags.clear()
    for connection in workers.one_of_each():
        assert connection.ask() == 200
    # A broken file changes nothing, and is said once.
    (tmp_path / "c.yaml").write_text("services: [\n")
    workers.process.send(signal.SIGHUP)
    workers.process.saw(r"reload refused, the running configuration stays")
    victim = workers.pids()[1]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in workers.children() and len(workers.children()) == 2, "it is back")
    assert generations(workers) == {0: 2, 1: 2}
    for connection in workers.one_of_each():
        assert connection.ask() == 200
    assert node.tags == []
    assert workers.process.err.count("reload refused") == 1


def test_a_refused_hangup_shows_in_the_metrics(tmp_path: Path, workers: Workers) -> None:
    def shows(figure: int) -> bool:
        connection = http.client.HTTPConnection(*workers.admin, timeout=PATIENCE_S)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return f"fastgw_config_last_reload_successful {figure}.0\n" in text

    good = (tmp_path / "c.yaml").read_text()
    assert shows(1)
    for text, figure in (("services: [\n", 0), (good, 1)):
        (tmp_path / "c.yaml").write_text(text)
        workers.process.send(signal.SIGHUP)
        wait_until(lambda figure=figure: all(shows(figure) for _ in range(5)), f"it is {figure}")


def test_a_worker_that_does_not_come_up_is_sent_no_connection(tmp_path: Path, node: Node) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with running_workers(tmp_path, configuration(node), "--access-log", str(logs / "a.log")) as workers:
        victim = workers.pids()[1]
        (logs / "a.log").unlink()
        logs.rmdir()
        os.kill(victim, signal.SIGKILL)
        workers.process.saw(r"starting it again (?!at once)")  # so it has failed to
        for _ in range(12):
            connection = workers.open()
            assert request(connection)[0] == 200
            connection.close()
        logs.mkdir()
        wait_until(lambda: len(workers.children()) == 2 and set(workers.counts()) == {0, 1}, "it is back")


def test_a_configuration_that_cannot_be_built_reaches_no_worker(
    tmp_path: Path, workers: Workers, node: Node
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("not a certificate\n")
    config = configuration(node).replace(
        "scheme: http", f"scheme: https\n      tls: {{ca_file: {authority}}}"
    )
    (tmp_path / "c.yaml").write_text(config)
    workers.process.send(signal.SIGHUP)
    workers.process.saw(r"reload refused")
    assert generations(workers) == {0: 1, 1: 1}
    assert workers.process.err.count("reload refused") == 1


def test_a_reload_by_the_admin_port_reaches_all(
    tmp_path: Path, workers: Workers, node: Node, backup: Node
) -> None:
    (tmp_path / "c.yaml").write_text("services: [\n")
    assert workers.ask_admin("/admin/reload", "POST")[0] == 400
    (tmp_path / "c.yaml").write_text(configuration(backup))
    assert workers.ask_admin("/admin/reload", "POST") == (200, {"status": "ok", "generation": 2})
    wait_until(lambda: generations(workers) == {0: 2, 1: 2}, "all have reloaded")
    node.tags.clear()
    for connection in workers.one_of_each():
        assert connection.ask() == 200
    assert node.tags == []


@pytest.mark.parametrize("whom", ["the supervisor", "all of them"])
def test_a_stop_drains_all_and_ends_with_0(workers: Workers, node: Node, whom: str) -> None:
    def is_closed() -> bool:
        try:
            socket.create_connection(workers.address, timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return True
        return False

    with held_request_in_each(workers, node) as statuses:
        children = workers.children()
        for pid in [workers.pid, *(children if whom == "all of them" else [])]:
            os.kill(pid, signal.SIGTERM)
        wait_until(is_closed, "nobody listens any more")
        assert workers.ask_admin("/readyz")[0] == 503
    assert statuses == [200, 200]
    assert workers.process.ended() == 0
    assert workers.process.err.count(": drained") == 2
    assert not any(is_alive(pid) for pid in children)


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGQUIT,)], ids=["twice", "QUIT"]
)
def test_a_second_signal_and_quit_end_at_once(
    workers: Workers, node: Node, numbers: tuple[signal.Signals, ...]
) -> None:
    (connection, _) = workers.one_of_each()
    held = Held(node)
    outcomes: list[Any] = []

    def ask_it() -> None:
        try:
            outcomes.append(connection.ask())
        except (OSError, http.client.HTTPException):
            outcomes.append("cut")

    thread = threading.Thread(target=ask_it)
    thread.start()
    held.wait_for_one()
    for index, number in enumerate(numbers):
        if index:
            workers.process.saw("draining: requests in flight: 1")
        workers.process.send(number)
    assert workers.process.ended() == 0
    held.go_on()
    thread.join(PATIENCE_S)
    assert outcomes == ["cut"] or outcomes[0] >= 500


def test_the_access_logs_of_all_are_opened_anew(tmp_path: Path, node: Node) -> None:
    log = tmp_path / "access.log"
    with running_workers(tmp_path, configuration(node), "--access-log", str(log)) as workers:
        connections = workers.one_of_each()
        wait_until(lambda: log.read_text().count("\n") >= 2, "lines are written")
        log.rename(tmp_path / "old")
        workers.process.send(signal.SIGUSR1)
        workers.process.saw(r"reopened the access log[^\0]*reopened the access log")
        for connection in connections:
            assert connection.ask() == 200
        wait_until(lambda: log.exists() and log.read_text().count("\n") == 2, "lines are in the new file")
