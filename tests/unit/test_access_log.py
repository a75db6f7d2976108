"""The access log: what a line says, what it can never say, and that nobody waits for it."""

import json
import logging
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastgw.access_log import MAX_ATTEMPTS, MAX_VALUE_CHARS, AccessLog, AttemptEntry, Entry, Format

HANG_GUARD_S = 60.0
WALL = 1_767_323_045.1234  # 2026-01-02 03:04:05.123 UTC


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {
        "time": WALL,
        "request_id": "r-1",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "llm-chat",
        "status": 200,
        "bytes": 1234,
        "duration_s": 0.5123,
        "ttft_s": 0.21,
        "model_asked": "gpt-4o",
        "model_used": "deepseek-chat",
        "tokens": (12, 34),
        "attempts": (
            AttemptEntry("api.openai.com:443", "failed", 503, 0.1),
            ("api.deepseek.com:443", "succeeded", 200, 0.4),
        ),
        "consumer": "alice",
        "note": None,
    }
    return Entry(**(values | changes))  # type: ignore[arg-type]


def bare_entry() -> Entry:
    return Entry(WALL, "r-2", "::1", "GET", "/", "-", 404, 0, 0.0)


def lines_of(path: Path, format: Format, *entries: Entry) -> list[str]:
    log = AccessLog(path, format)
    for one in entries:
        log.record(one)
    assert log.close(HANG_GUARD_S)
    return path.read_text("ascii").splitlines()


@contextmanager
def piped_log(
    format: Format = "json", *, max_buffer_bytes: int = 4 << 20, is_blocking: bool = True
) -> Iterator[tuple[AccessLog, int]]:
    """A log whose standard output is a pipe, and the end to read it from (the log has the only other)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, is_blocking)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastgw.access_log.STDOUT", writing)
        log = AccessLog("-", format, max_buffer_bytes=max_buffer_bytes)
    os.close(writing)
    try:
        yield log, reading
    finally:
        os.close(reading)


class Reader(threading.Thread):
    """Reads a pipe to its end."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd = fd
        self.data = b""
        self.start()

    def run(self) -> None:
        while chunk := os.read(self.fd, 65536):
            self.data += chunk

    def lines(self) -> list[bytes]:
        self.join(HANG_GUARD_S)
        assert not self.is_alive(), "the log did not close its end"
        return self.data.splitlines()


# --- What a line says -------------------------------------------------------------------------


def test_text_line_says_all(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "log", "text", entry()) == [
        '127.0.0.1 - alice [2026-01-02T03:04:05.123Z] "POST /v1/chat/completions" 200 1234 '
        "request_id=r-1 route=llm-chat duration_s=0.512 ttft_s=0.210 model_asked=gpt-4o "
        "model_used=deepseek-chat prompt_tokens=12 completion_tokens=34 "
        "attempts=api.openai.com:443:failed:503:0.100,api.deepseek.com:443:succeeded:200:0.400 note=-"
    ]


def test_text_line_shows_a_dash_for_what_is_not_known(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "log", "text", bare_entry()) == [
        '::1 - - [2026-01-02T03:04:05.123Z] "GET /" 404 0 request_id=r-2 route="-" duration_s=0.000 ttft_s=- '
        "model_asked=- model_used=- prompt_tokens=- completion_tokens=- attempts=- note=-"
    ]


def test_json_line_says_all(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path / "log", "json", entry(note="replayed on a fresh connection"))
    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.123Z",
        "request_id": "r-1",
        "client": "127.0.0.1",
        "consumer": "alice",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "llm-chat",
        "status": 200,
        "bytes": 1234,
        "duration_s": 0.5123,
        "ttft_s": 0.21,
        "model_asked": "gpt-4o",
        "model_used": "deepseek-chat",
        "prompt_tokens": 12,
        "completion_tokens": 34,
        "attempts": [
            {"node": "api.openai.com:443", "outcome": "failed", "status": 503, "seconds": 0.1},
            {"node": "api.deepseek.com:443", "outcome": "succeeded", "status": 200, "seconds": 0.4},
        ],
        "attempts_left_out": 0,
        "note": "replayed on a fresh connection",
    }


def test_json_lines_have_the_same_keys_whatever_is_known(tmp_path: Path) -> None:
    full, bare = (json.loads(line) for line in lines_of(tmp_path / "log", "json", entry(), bare_entry()))
    assert full.keys() == bare.keys()
    assert bare["ttft_s"] is None
    assert bare["prompt_tokens"] is None
    assert bare["attempts"] == []


def test_an_attempt_without_a_head_has_no_status(tmp_path: Path) -> None:
    attempts = (("a", "failed", 0, 0.25),)
    (text,) = lines_of(tmp_path / "text", "text", entry(attempts=attempts))
    (line,) = lines_of(tmp_path / "json", "json", entry(attempts=attempts))
    assert "attempts=a:failed:-:0.250 " in text
    assert json.loads(line)["attempts"] == [
        {"node": "a", "outcome": "failed", "status": None, "seconds": 0.25}
    ]


def test_time_is_right_in_every_second(tmp_path: Path) -> None:
    walls = (WALL, WALL + 0.8765, WALL + 0.8767, WALL - 1, float("nan"), -1.0, 1e300)
    lines = lines_of(tmp_path / "log", "json", *(entry(time=wall) for wall in walls))
    assert [json.loads(line)["time"] for line in lines] == [
        "2026-01-02T03:04:05.123Z",
        "2026-01-02T03:04:05.999Z",
        "2026-01-02T03:04:06.000Z",
        "2026-01-02T03:04:04.123Z",
        "-",
        "-",
        "-",
    ]


# --- What a line can never say ----------------------------------------------------------------

HOSTILE = (
    'x"\n127.0.0.1 - - [2026-01-02T03:04:05.123Z] "GET /forged" 200 0',
    "x\r\nnote=forged status=200",
    "x\x1b[2J\x9b2J\x7f\x00",
    "x\u2028\u2029\u202ey\u0085",
    "x\udc80\udcff",
    "x\U0001f600\\",
    "a,b:failed:200:0.1 c=d",
    "",
    "-",
)


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "field",
    ["path", "request_id", "method", "model_asked", "model_used", "consumer", "route", "client", "note"],
)
def test_no_value_starts_a_line_or_reaches_a_terminal(
    tmp_path: Path, format: Format, field: str, value: str
) -> None:
    path = tmp_path / "log"
    assert len(lines_of(path, format, entry(**{field: value}))) == 1
    assert all(0x20 <= byte < 0x7F for byte in path.read_bytes().removesuffix(b"\n"))


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_forges_a_field_of_a_text_line(tmp_path: Path, value: str) -> None:
    (line,) = lines_of(tmp_path / "log", "text", entry(request_id=value, note=value))
    outside_quotes = []
    is_inside = False
    previous = ""
    for character in line:
        if character == '"' and previous != "\\":
            is_inside = not is_inside
        elif not is_inside:
            outside_quotes.append(character)
        previous = "" if previous == "\\" else character
    assert not is_inside
    words = "".join(outside_quotes).split()
    assert [word.partition("=")[0] for word in words if "=" in word] == [
        "request_id",
        "route",
        "duration_s",
        "ttft_s",
        "model_asked",
        "model_used",
        "prompt_tokens",
        "completion_tokens",
        "attempts",
        "note",
    ]


@pytest.mark.parametrize("value", HOSTILE)
def test_json_gives_the_value_back(tmp_path: Path, value: str) -> None:
    (line,) = lines_of(tmp_path / "log", "json", entry(note=value))
    assert json.loads(line)["note"] == value.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("format", ["text", "json"])
def test_query_and_fragment_are_never_logged(tmp_path: Path, format: Format) -> None:
    paths = ("/v1/models?api_key=canary", "/v1/models#canary", "/v1/models#?canary", "/v1/models?#canary")
    lines = lines_of(tmp_path / "log", format, *(entry(path=path) for path in paths))
    assert len(lines) == len(paths)
    assert not any("canary" in line for line in lines)
    assert all("/v1/models" in line for line in lines)


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "key", ["sk-" + "canary-0123456789", "Bearer canary-0123456789", "Bearer%20canary-0123"]
)
def test_what_looks_like_a_key_is_masked(tmp_path: Path, format: Format, key: str) -> None:
    (line,) = lines_of(tmp_path / "log", format, entry(path=f"/v1/{key}/x", note=key))
    assert "canary" not in line
    assert "/v1/" in line
    assert "***" in line


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_is_bounded_whatever_the_client_sends(tmp_path: Path, format: Format) -> None:
    endless = "\u202e" * 100_000
    attempts = tuple(("n" * 10_000, "failed", 500, 0.1) for _ in range(1000))
    (line,) = lines_of(
        tmp_path / "log",
        format,
        entry(path=endless, request_id=endless, model_asked=endless, attempts=attempts),
    )
    assert len(line) < 3 * 6 * (MAX_VALUE_CHARS + 3) + MAX_ATTEMPTS * (MAX_VALUE_CHARS + 100) + 1000
    if format == "json":
        assert json.loads(line)["attempts_left_out"] == 1000 - MAX_ATTEMPTS
    else:
        assert f",+{1000 - MAX_ATTEMPTS} note" in line


# --- Where it goes ----------------------------------------------------------------------------


def test_no_destination_means_no_log_and_no_thread() -> None:
    before = set(threading.enumerate())
    log = AccessLog(None)
    log.record(entry())
    log.reopen()
    assert not log.is_enabled
    assert log.flush(HANG_GUARD_S)
    assert set(threading.enumerate()) <= before
    assert (log.recorded, log.written, log.dropped) == (0, 0, 0)
    assert log.close(HANG_GUARD_S)


def test_a_log_without_lines_has_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    log = AccessLog(tmp_path / "log")
    assert set(threading.enumerate()) <= before
    assert log.close(HANG_GUARD_S)
    assert log.close(HANG_GUARD_S)


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of an earlier run\n")
    log = AccessLog(path, "json")
    for number in range(5000):
        log.record(entry(request_id=str(number)))
    assert log.flush(HANG_GUARD_S)
    assert (log.recorded, log.written, log.dropped, log.buffered_bytes) == (5000, 5000, 0, 0)
    assert log.close(HANG_GUARD_S)
    first, *rest = path.read_text().splitlines()
    assert first == "of an earlier run"
    assert [json.loads(line)["request_id"] for line in rest] == [str(number) for number in range(5000)]


def test_file_is_not_readable_by_everybody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    AccessLog(path).close(HANG_GUARD_S)
    assert path.stat().st_mode & 0o007 == 0


def test_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-")
    log.record(entry())
    assert log.close(HANG_GUARD_S)
    os.fstat(1)  # closing the log leaves standard output open
    assert capfd.readouterr().out.startswith("127.0.0.1 - alice [")


def test_destination_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(tmp_path / "missing" / "log")
    with pytest.raises(IsADirectoryError):
        AccessLog(tmp_path)


def test_senseless_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text or json"):
        AccessLog(tmp_path / "log", "xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        AccessLog(tmp_path / "log", max_buffer_bytes=0)


def test_reopen_splits_the_log_at_that_line(tmp_path: Path) -> None:
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    log = AccessLog(path, "json")
    log.record(entry(request_id="before"))
    path.rename(rotated)
    log.reopen()
    log.record(entry(request_id="after"))
    assert log.close(HANG_GUARD_S)
    assert [json.loads(line)["request_id"] for line in rotated.read_text().splitlines()] == ["before"]
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["after"]


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = AccessLog(directory / "log", "json")
    directory.rename(tmp_path / "moved")
    log.reopen()
    log.record(entry(request_id="kept"))
    assert log.close(HANG_GUARD_S)
    assert "kept" in (tmp_path / "moved" / "log").read_text()
    assert [record.getMessage() for record in caplog.records] == [
        f"access log: {directory / 'log'}: cannot open it anew (No such file or directory); "
        "still writing to the old one"
    ]


def test_after_close_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log")
    log.record(entry())
    assert log.close(HANG_GUARD_S)
    log.record(entry())
    log.reopen()
    assert not log.is_enabled
    assert log.flush(HANG_GUARD_S)
    assert (log.recorded, log.written, log.dropped) == (2, 1, 1)


def test_repr_shows_the_state(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log", "json")
    log.record(entry())
    assert log.flush(HANG_GUARD_S)
    assert repr(log) == f"<AccessLog {tmp_path / 'log'} json written=1 dropped=0 buffered=0>"
    assert log.close(HANG_GUARD_S)
    assert repr(AccessLog(None)) == "<AccessLog off text written=0 dropped=0 buffered=0>"


# --- Nobody waits for it ----------------------------------------------------------------------


def test_blocked_pipe_blocks_nobody_and_loses_only_what_does_not_fit() -> None:
    with piped_log(max_buffer_bytes=100_000) as (log, reading):
        for number in range(3000):  # several times what pipe and buffer hold
            log.record(entry(request_id=str(number)))  # if it waited, it would wait for ever
        assert log.dropped > 0
        assert log.buffered_bytes <= 100_000
        assert not log.flush(timeout_s=0.05)

        reader = Reader(reading)
        assert log.flush(HANG_GUARD_S)
        assert log.recorded == log.written + log.dropped == 3000
        log.record(entry(request_id="after"))
        assert log.close(HANG_GUARD_S)
        *lines, last = (json.loads(line)["request_id"] for line in reader.lines())
        assert len(lines) + 1 == log.written
        assert lines == [str(number) for number in range(len(lines))]
        assert last == "after"


def test_close_gives_up_on_a_blocked_pipe() -> None:
    with piped_log() as (log, reading):
        for _ in range(3000):
            log.record(entry())
        assert not log.close(timeout_s=0.05)
        assert not log.is_enabled
        assert len(Reader(reading).lines()) == 3000  # the process went on living, so they came out after all


def test_writes_to_a_pipe_are_whole_lines_of_at_most_pipe_buf(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write

    def watched_write(fd: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(fd, data)

    with piped_log() as (log, reading):
        monkeypatch.setattr(os, "write", watched_write)
        reader = Reader(reading)  # how many writes a pipe takes depends on where their ends fall
        for _ in range(100):
            log.record(entry())
        assert log.close(HANG_GUARD_S)
        assert len(reader.lines()) == 100
    assert len(written) > 1
    assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in written)


def test_non_blocking_standard_output_is_waited_for() -> None:
    with piped_log(is_blocking=False) as (log, reading):
        for _ in range(1000):
            log.record(entry())
        assert not log.flush(timeout_s=0.05)
        reader = Reader(reading)
        assert log.flush(HANG_GUARD_S)
        assert log.close(HANG_GUARD_S)
        assert (len(reader.lines()), log.dropped) == (1000, 0)


def test_reader_that_left_ends_the_logging_but_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastgw.access_log.STDOUT", writing)
        log = AccessLog("-")
    os.close(writing)
    log.record(entry())
    assert log.flush(HANG_GUARD_S)
    assert not log.is_enabled
    for _ in range(10):
        log.record(entry())
    assert (log.recorded, log.written, log.dropped) == (11, 0, 11)
    assert log.close(HANG_GUARD_S)
    assert len(caplog.records) == 1
    assert "nobody reads standard output" in caplog.text


def test_full_disk_drops_counts_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog("/dev/full")
    for _ in range(3):
        log.record(entry())
        assert log.flush(HANG_GUARD_S)
    assert (log.recorded, log.written, log.dropped, log.buffered_bytes) == (3, 0, 3, 0)
    assert log.is_enabled  # room may come back
    assert log.close(HANG_GUARD_S)
    assert [record.getMessage() for record in caplog.records] == [
        "access log: /dev/full: No space left on device; lines are dropped and counted"
    ]


def test_line_torn_by_a_full_disk_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "log"
    write = os.write
    room = 1000

    def write_to_small_disk(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        count = write(fd, data[:room])
        room -= count
        return count

    monkeypatch.setattr(os, "write", write_to_small_disk)
    log = AccessLog(path, "json")
    for number in range(5):
        log.record(entry(request_id=f"first-{number}"))
    assert log.flush(HANG_GUARD_S)
    whole = path.read_bytes().count(b"\n")
    assert 0 < whole < 5
    assert (log.written, log.dropped) == (whole, 5 - whole)
    room = 1_000_000
    log.record(entry(request_id="second"))
    assert log.close(HANG_GUARD_S)
    assert (log.written, log.dropped) == (whole + 1, 5 - whole)
    lines = path.read_text().splitlines()
    assert len(lines) == whole + 2  # the torn one stands alone
    assert json.loads(lines[-1])["request_id"] == "second"
    assert [record.getMessage() for record in caplog.records] == [
        f"access log: {path}: No space left on device; lines are dropped and counted",
        f"access log: {path}: writing again; {5 - whole} lines were lost",
    ]


def test_named_pipe_may_get_a_new_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):  # and no wait for a reader
        AccessLog(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(path)
    os.close(reading)
    log.record(entry())
    assert log.flush(HANG_GUARD_S)
    assert log.dropped == 1
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.record(entry())
    assert log.flush(HANG_GUARD_S)
    assert os.read(reading, 65536).count(b"\n") == 1
    os.close(reading)
    assert log.close(HANG_GUARD_S)


def test_full_buffer_refuses_before_it_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AccessLog(tmp_path / "log", max_buffer_bytes=1)
    for _ in range(10):
        log.record(entry())
    assert (log.recorded, log.dropped, log.buffered_bytes) == (10, 10, 0)
    assert log.close(HANG_GUARD_S)


def test_a_log_made_before_a_fork_works_in_the_child(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(path)
    child = os.fork()
    if child == 0:
        log.record(entry(request_id="child"))
        os._exit(0 if log.close(HANG_GUARD_S) else 1)
    assert os.waitpid(child, 0)[1] == 0
    log.record(entry(request_id="parent"))
    assert log.close(HANG_GUARD_S)
    text = path.read_text()
    assert "request_id=child" in text
    assert "request_id=parent" in text
