"""The command as its users meet it: a process, its exit code, its output, and the signals it takes."""

import contextlib
import fcntl
import http.client
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, FREE, PATIENCE_S, Process, admin_of, ask, base_of, environment
from rig import wait_until
from source_graph import ROOT
from wire_ends import refusing

BAD = """\
services:
  - name: s
    routes:
      - name: r
        uris: [/v1/*]
        methods: [get]
    upstream:
      scheme: htps
      nodes:
        - host: api.openai.com
          port: 70000
          weight: 1
          auth: {header: {Authorization: "Bearer ${NOT_SET_ANYWHERE}"}}
"""
GOOD = """\
services:
  - name: s
    routes:
      - name: r
        uris: [/v1/*]
    upstream:
      scheme: http
      nodes:
        - {host: 127.0.0.1, port: 9, weight: 1}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the simulated providers keep their certificates: made once for all tests here."""
    return tmp_path_factory.mktemp("cache")


Run = Callable[..., Process]


@pytest.fixture
def fastgw(tmp_path: Path, authority: Path) -> Iterator[Run]:
    """Start ``fastgw`` with these arguments, in an empty directory."""
    started: list[Process] = []

    def start(*arguments: str, **env: str) -> Process:
        started.append(Process(*arguments, cwd=tmp_path, env=environment(authority, **env)))
        return started[-1]

    yield start
    for process in started:
        process.__exit__()


def control(process: Process, method: str, **fault: Any) -> None:
    """Break the simulated OpenAI, or mend it."""
    port = int(process.saw(r"http://127\.0\.0\.1:(\d+)/providers/openai/fault")[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, "/providers/openai/fault", json.dumps(fault) if fault else None)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


# --- Commands that end by themselves ----------------------------------------------------------


def test_version_is_printed(fastgw: Run) -> None:
    process = fastgw("version")
    assert process.ended() == 0
    assert re.fullmatch(r"fastgw \d+\.\d+\.\d+\S*\n", process.out)


def test_bench_is_the_benchmarks_of_the_checkout(fastgw: Run) -> None:
    process = fastgw("bench", "--help")
    assert process.ended() == 0
    assert "python -m benchmarks" in process.out and "--only" in process.out


def test_check_of_a_good_file_ends_with_0_and_says_what_it_amounts_to(fastgw: Run, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    process = fastgw("check", "-c", "good.yaml")
    assert process.ended() == 0
    assert "good.yaml: good: 1 route, 1 upstream, 1 node" in process.out
    assert process.err == ""


def test_check_lists_every_mistake_with_its_place_and_ends_with_1(fastgw: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    process = fastgw("check", "-c", "bad.yaml")
    assert process.ended() == 1
    places = re.findall(r"^(bad\.yaml:\d+:\d+): services", process.out, flags=re.MULTILINE)
    assert places == ["bad.yaml:6:19", "bad.yaml:8:15", "bad.yaml:11:17", "bad.yaml:13:42"]
    assert "NOT_SET_ANYWHERE" in process.out
    assert "4 errors" in process.out


@pytest.mark.parametrize("form", ["json", "github"])
def test_check_speaks_to_programs(fastgw: Run, tmp_path: Path, form: str) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    process = fastgw("check", "-c", "bad.yaml", "--format", form)
    assert process.ended() == 1
    if form == "json":
        report = json.loads(process.out)
        assert not report["good"]
        assert [error["line"] for error in report["errors"]] == [6, 8, 11, 13]
    else:
        assert process.out.count("::error file=bad.yaml,line=") == 4


def test_schema_is_json(fastgw: Run) -> None:
    process = fastgw("schema")
    assert process.ended() == 0
    assert json.loads(process.out)["$schema"].startswith("https://json-schema.org/")


def test_the_demo_shows_every_failure_and_no_caller_sees_one(fastgw: Run) -> None:
    process = fastgw("demo", FASTGW_DEMO_SCALE="0.01")
    assert process.popen.wait(110) == 0, process.out
    process.ended()
    lines = process.out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith(", errors 0") for line in lines[:-1])
    assert lines[-1].endswith("errors seen by the callers: 0, wrong answers: 0")
    assert process.err == ""


# --- Starts that are refused ------------------------------------------------------------------


def test_a_bad_configuration_ends_with_78_and_every_error(fastgw: Run, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(BAD)
    process = fastgw(*FREE)
    assert process.ended() == 78
    assert process.err.count("gateway.yaml:") == 4
    assert process.err.endswith("refused the configuration: 4 errors\n")
    assert process.out == ""


def test_a_file_that_is_missing_ends_with_78(fastgw: Run) -> None:
    process = fastgw("run", "-c", "nowhere.yaml", *FREE)
    assert process.ended() == 78
    assert "nowhere.yaml:1:1: cannot be read" in process.err


@pytest.mark.parametrize("which", ["--listen", "--admin"])
def test_a_port_in_use_ends_with_3_and_names_the_address(fastgw: Run, which: str) -> None:
    other = "--admin" if which == "--listen" else "--listen"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = fastgw("run", which, address, other, "127.0.0.1:0")
        assert process.ended() == 3
    assert process.err == f"fastgw: cannot listen on {address}: Address already in use\n"


@pytest.mark.parametrize(
    "arguments", [("--workers", "0"), ("--listen", "nonsense"), ("--connect-to", "a:b"), ("--profile", "x")]
)
def test_a_bad_command_line_ends_with_2(fastgw: Run, arguments: tuple[str, ...]) -> None:
    process = fastgw("run", *arguments)
    assert process.ended() == 2
    assert process.err.startswith("Usage:")


def test_a_gateway_open_to_other_machines_without_client_keys_is_refused(fastgw: Run) -> None:
    process = fastgw("run", "--listen", "0.0.0.0:0", "--admin", "off")
    assert process.ended() == 78
    assert "no client key is asked for on route llm" in process.err


def test_an_admin_port_open_to_other_machines_needs_a_token(fastgw: Run) -> None:
    process = fastgw("run", "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0")
    assert process.ended() == 78
    assert "admin token" in process.err


def test_an_access_log_that_cannot_be_opened_is_refused(fastgw: Run) -> None:
    process = fastgw("run", *FREE, "--access-log", "no/such/directory/log")
    assert process.ended() == 78
    assert "no/such/directory/log: No such file or directory" in process.err


# --- Running ----------------------------------------------------------------------------------


def test_without_file_and_keys_simulated_providers_answer_and_say_so(fastgw: Run) -> None:
    process = fastgw(*FREE)
    address = base_of(process)
    assert "SIMULATED PROVIDERS" in process.err
    assert f"export OPENAI_BASE_URL=http://{address[0]}:{address[1]}/v1\n" in process.err
    status, headers, body = ask(address)
    assert status == 200
    assert headers["x-fastgw-simulated"] == "1"
    assert json.loads(body)["choices"][0]["message"]["content"] == "You said: hello id-1"
    control(process, "PUT", kind="status", status=500)
    status, headers, body = ask(address)
    assert (status, headers["x-fastgw-upstream"]) == (200, "api.deepseek.com:443")
    process.saw(r"attempts=api\.openai\.com:443:\w+:500:[\d.]+,api\.deepseek\.com:443:succeeded:200", "out")
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    assert "sk-sim" not in process.out + process.err


def test_the_banners_curl_line_works_as_it_is(fastgw: Run) -> None:
    process = fastgw(*FREE)
    base_of(process)
    pasted = re.search(r"  (curl .* \\\n +-d '.*')\n", process.err)
    assert pasted is not None
    words = shlex.split(pasted[1].replace("\\\n", " "))
    assert (words[0], words[2], words[4]) == ("curl", "-H", "-d")
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)/v1/chat/completions", words[1]).groups()  # type: ignore[union-attr]
    status, _, body = ask((host, int(port)), **json.loads(words[5]))
    assert status == 200
    assert b"You said: Hello" in body


def test_one_key_alone_starts_with_one_provider_and_says_so(fastgw: Run) -> None:
    key = "sk-canary-0123456789"
    with refusing() as closed:
        away = f"api.openai.com:443:127.0.0.1:{closed}"
        process = fastgw("run", *FREE, "--connect-to", away, OPENAI_API_KEY=key)
        status, _, body = ask(base_of(process))
    assert "ONE PROVIDER ONLY" in process.err
    assert "DEEPSEEK_API_KEY is not set" in process.err
    assert "api.deepseek.com" not in process.err
    assert status in (502, 503)
    assert "error" in json.loads(body)
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    assert key not in process.out + process.err


def test_the_articles_file_runs_against_the_command_that_simulate_prints(fastgw: Run, tmp_path: Path) -> None:
    ports = ("--port-openai", "0", "--port-deepseek", "0", "--control", "0")
    providers = fastgw("simulate", "--article", *ports)
    printed = providers.saw(r"  fastgw (run -c examples/article\.yaml(?: \\\n.*)+)\n", "out")[1]
    providers.saw(r"--ca-file \S+\n", "out")
    printed = re.search(r"  fastgw (run [^\0]*?--ca-file \S+)\n", providers.out)[1]  # type: ignore[index]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    gateway = fastgw(*shlex.split(printed.replace("\\\n", " ")), *FREE)
    status, headers, body = ask(base_of(gateway))
    assert (status, headers.get("x-fastgw-upstream")) == (200, "api.openai.com:443"), body
    for process in (gateway, providers):
        process.send(signal.SIGTERM)
        assert process.ended() == 0


def test_flag_wins_over_environment_and_that_over_the_file(fastgw: Run, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        GOOD
        + "fastgw: {listen: '127.0.0.1:0', admin: 'off', drain: 7, access_log: 'off', log_format: json}\n"
    )
    process = fastgw("--drain", "3", FASTGW_DRAIN="5", FASTGW_LOG_FORMAT="text")
    base_of(process)
    assert "  admin    off" in process.err
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    assert "they have 3 s" in process.err


def test_a_log_for_machines_is_json_in_every_line(fastgw: Run) -> None:
    process = fastgw(*FREE, "--log-format", "json")
    process.saw(r'"message": "started"')
    started = json.loads(process.err.splitlines()[0])
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)", started["listen"][0]).groups()  # type: ignore[union-attr]
    assert ask((host, int(port)))[0] == 200
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    for line in (process.err + process.out).splitlines():
        assert isinstance(json.loads(line), dict)


# --- Signals ----------------------------------------------------------------------------------


class Stream:
    """A streamed answer that is under way: its first content has been read."""

    def __init__(self, address: tuple[str, int], *, tokens: int, delay_ms: int) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
        body = {
            "model": "gpt-4o-mini",
            "stream": True,
            "messages": [{"role": "user", "content": "hello"}],
        }
        headers = {
            "Content-Type": "application/json",
            "x-sim-tokens": str(tokens),
            "x-sim-delay-ms": str(delay_ms),
        }
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self.response = self.connection.getresponse()
        self.first = self.response.readline()

    def rest(self) -> bytes:
        try:
            return self.response.read()
        except (http.client.IncompleteRead, ConnectionError) as cut:
            return getattr(cut, "partial", b"") + b"<cut>"
        finally:
            self.connection.close()


def test_sigterm_lets_a_stream_finish_and_takes_no_new_connection(fastgw: Run) -> None:
    process = fastgw(*FREE)
    address = base_of(process)
    stream = Stream(address, tokens=250, delay_ms=20)  # 5 s: it must outlast the signal
    process.send(signal.SIGTERM)
    process.saw("draining: requests in flight: 1")
    with pytest.raises(ConnectionError):
        ask(address)
    assert stream.rest().rstrip().endswith(b"data: [DONE]")
    assert process.ended() == 0
    assert "drained" in process.err


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGINT), (signal.SIGQUIT,)])
def test_a_second_signal_or_sigquit_stops_at_once(fastgw: Run, signals: tuple[signal.Signals, ...]) -> None:
    process = fastgw(*FREE)
    stream = Stream(base_of(process), tokens=3000, delay_ms=20)  # a minute
    process.send(signals[0])
    if len(signals) > 1:
        process.saw("draining: requests in flight: 1")
        process.send(signals[1])
    rest = stream.rest()
    assert b"[DONE]" not in rest
    assert rest.endswith(b"<cut>"), "a stream that was cut must not look whole"
    assert process.ended() == 0


def test_a_drain_that_reaches_its_limit_interrupts_honestly(fastgw: Run) -> None:
    process = fastgw(*FREE, "--drain", "0.2")
    stream = Stream(base_of(process), tokens=3000, delay_ms=20)
    process.send(signal.SIGTERM)
    rest = stream.rest()
    assert b"[DONE]" not in rest
    assert rest.endswith(b"<cut>")
    assert process.ended() == 0
    assert "drain limit reached: interrupting 1 requests" in process.err


def test_sighup_takes_a_new_configuration_and_refuses_a_broken_one(fastgw: Run, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD)
    process = fastgw(*FREE)
    address = base_of(process)
    assert ask(address, "/other")[0] == 404
    file.write_text(GOOD.replace("/v1/*", "/other"))
    process.send(signal.SIGHUP)
    process.saw("configuration reloaded")
    assert ask(address, "/other")[0] in (502, 503)
    assert ask(address)[0] == 404
    file.write_text(BAD)
    process.send(signal.SIGHUP)
    process.saw(r"reload refused, the running configuration stays:\n +\S*gateway\.yaml:6:19")
    assert ask(address, "/other")[0] in (502, 503)
    file.write_text(GOOD + "fastgw: {keepalive: 5}\n")
    process.send(signal.SIGHUP)
    process.saw("fastgw.keepalive has changed: a restart is needed")
    process.send(signal.SIGTERM)
    assert process.ended() == 0


def test_a_reload_does_not_open_to_others_what_asked_for_keys(fastgw: Run, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        GOOD.replace("name: r", "name: r\n        plugins: {key-auth: {}}")
        + "consumers: [{username: u, plugins: {key-auth: {key: a-key-of-a-client}}}]\n"
        + "fastgw: {listen: '0.0.0.0:0', admin: 'off'}\n"
    )
    process = fastgw()
    address = base_of(process)
    assert ask(address)[0] == 401
    file.write_text(GOOD + "fastgw: {listen: '127.0.0.1:0', admin: 'off'}\n")
    process.send(signal.SIGHUP)
    process.saw("reload refused(.|\n)*no client key is asked for on route r")
    assert ask(address)[0] == 401


def test_sighup_without_a_file_changes_nothing(fastgw: Run) -> None:
    process = fastgw(*FREE)
    address = base_of(process)
    process.send(signal.SIGHUP)
    process.saw("nothing to reload")
    assert ask(address)[0] == 200


def test_sigusr1_reopens_the_access_log_after_it_was_moved(fastgw: Run, tmp_path: Path) -> None:
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    process = fastgw(*FREE, "--access-log", str(log))
    address = base_of(process)
    ask(address)
    log.rename(moved)
    ask(address)
    process.send(signal.SIGUSR1)
    process.saw("reopened the access log")
    ask(address)
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    assert len(moved.read_text().splitlines()) == 2
    assert len(log.read_text().splitlines()) == 1
    assert process.out == ""


def test_the_admin_port_answers_and_asks_for_its_token(fastgw: Run, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    token.chmod(0o600)
    process = fastgw(*FREE, "--admin-token-file", str(token))
    admin = admin_of(process)
    assert ask(admin, "/livez", "GET")[0] == 200
    assert ask(admin, "/debug/counts", "GET")[0] == 401
    connection = http.client.HTTPConnection(*admin, timeout=PATIENCE_S)
    connection.request("GET", "/debug/counts", headers={"Authorization": "Bearer a-token-of-some-length"})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("streams", ["2>/dev/full", "<&- >&- 2>&-"], ids=["full", "closed"])
def test_it_serves_where_nobody_takes_what_it_says(tmp_path: Path, streams: str, workers: str) -> None:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    place = tmp_path / "gateway"
    flags = ("run", "--listen", f"unix:{place}", "--admin", "off", "--workers", workers)
    line = f"exec {shlex.join((sys.executable, *COMMAND, *flags))} {streams}"

    def is_served() -> bool:
        assert process.poll() is None
        return is_alive_at(place)

    with subprocess.Popen(["sh", "-c", line], cwd=tmp_path, env=environment(tmp_path)) as process:
        try:
            wait_until(is_served, "it answers")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(("descriptors", "code"), [(63, 1), (64, 0)])
def test_it_starts_only_with_descriptors_enough_to_answer_somebody(
    tmp_path: Path, descriptors: int, code: int
) -> None:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    place = tmp_path / "gateway"
    flags = ("run", "--listen", f"unix:{place}", "--admin", "127.0.0.1:0")
    line = f"ulimit -n {descriptors}; exec {shlex.join((sys.executable, *COMMAND, *flags))}"
    with subprocess.Popen(
        ["sh", "-c", line], cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE
    ) as process:
        try:
            if code == 0:
                wait_until(lambda: is_alive_at(place), "it answers")
                process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == code
    assert (b"63 file descriptors are too few" in said) == (code != 0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("is_full_at_start", [True, False])
def test_a_standard_error_that_takes_nothing_more_holds_up_nothing(
    tmp_path: Path, workers: int, is_full_at_start: bool
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD)
    place = tmp_path / "gateway"
    flags = ("run", "--listen", f"unix:{place}", "--admin", "off", "--workers", str(workers))
    reading, writing = os.pipe()
    if is_full_at_start:
        fill(writing)

    def is_served() -> bool:
        assert process.poll() is None
        return is_alive_at(place)

    def children() -> set[str]:
        return {*Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}

    with subprocess.Popen(
        [sys.executable, *COMMAND, *flags],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=writing,
    ) as process:
        try:
            wait_until(is_served, "it answers")
            if not is_full_at_start:
                assert read_until(reading, b"  config   gateway.yaml\n\n")
                fill(writing)
                full = waiting_in(reading)
                os.read(reading, select.PIPE_BUF)  # there is room for the beginning of a long line
                file.write_text("services:\n" + "  - {x: 1}\n" * 150)
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: waiting_in(reading) == full, "the mistakes in the file are being told")
                if workers > 1:
                    before = children()
                    os.kill(int(min(before)), signal.SIGKILL)
                    wait_until(lambda: not before >= children() and len(children()) == 2, "there is another")
            wait_until(is_served, "it still answers")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)


def read_until(pipe: int, end: bytes) -> bytes:
    text = b""
    while not text.endswith(end):
        text += os.read(pipe, 4096)
    return text


def fill(pipe: int) -> None:
    """Write until nothing more is taken."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(select.PIPE_BUF))
    os.set_blocking(pipe, True)


def waiting_in(pipe: int) -> int:
    """How many bytes wait to be read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def is_alive_at(place: Path) -> bool:
    """Does a gateway answer at this path?"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        try:
            client.connect(str(place))
        except OSError:
            return False
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A configuration that is read when, and as often as, the test writes it: a named pipe.

    Below /dev everything may be read that is no file.
    """
    pipe = tmp_path / "told.yaml"
    os.mkfifo(pipe)
    return Path(f"/dev/..{pipe}")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_asks_for_a_reload_during_the_start_gets_it_when_it_is_over(
    fastgw: Run, told: Path, workers: str
) -> None:
    process = fastgw(*FREE, "-c", str(told), "--workers", workers)
    with told.open("w") as configuration:  # returns when it is opened for reading
        process.send(signal.SIGHUP)
        process.send(signal.SIGUSR1)
        configuration.write(GOOD)
    base = base_of(process)
    told.write_text("services: 7")
    process.saw(r"reload refused[^\0]*told.yaml:1:11: services: ")
    process.saw("reopened the access log")
    assert ask(base, "/healthz", "GET")[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_asks_for_many_reloads_at_once_gets_one(fastgw: Run, told: Path, workers: str) -> None:
    process = fastgw(*FREE, "-c", str(told), "--workers", workers)
    told.write_text(GOOD)
    base = base_of(process)
    process.send(signal.SIGHUP)
    with told.open("w") as configuration:
        for _ in range(1000):
            process.send(signal.SIGHUP)
        configuration.write("services: 7")
    process.saw("reload refused")
    told.write_text("services: 8")  # a third time nobody would write, and the process would wait
    process.saw(r"reload refused[^\0]*reload refused")
    assert ask(base, "/healthz", "GET")[0] == 200
    process.send(signal.SIGTERM)
    assert process.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_ends_leaves_the_socket_that_another_has_put_in_its_place(
    fastgw: Run, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    place = tmp_path / "gateway"
    flags = ("--listen", f"unix:{place}", "--admin", "off", "--workers", workers)
    old = fastgw(*flags)
    old.saw("  config   gateway.yaml\n")
    place.unlink()
    new = fastgw(*flags)
    new.saw("  config   gateway.yaml\n")
    old.send(signal.SIGTERM)
    assert old.ended() == 0
    assert is_alive_at(place)
    new.send(signal.SIGTERM)
    assert new.ended() == 0
    assert not place.exists()
