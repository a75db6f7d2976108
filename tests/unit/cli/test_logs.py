"""The operational log: its lines, and what must not be in them."""

import functools
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fastgw.cli import logs
from fastgw.cli.logs import JsonFormatter, StderrHandler, TextFormatter, mask
from fastgw.cli.process import load_again
from fastgw.config import loads
from fastgw.config.model import ProcessConfig
from fastgw.redaction import PATTERNS
from fastgw.secret import Secret

KEY = "sk-proj-0a1b2c3d4e"


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("fastgw.x", logging.WARNING, "file", 1, message, arguments, info)
    made.created = 1_700_000_000.25
    return made


def test_what_looks_like_a_key_is_masked() -> None:
    assert mask(f"the key {KEY}.") == "the key sk-***."


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``logs.hide``, for this test alone."""
    monkeypatch.setattr(logs, "_hidden", deque(maxlen=logs._hidden.maxlen))
    monkeypatch.setattr(logs, "_redactor", PATTERNS)
    return lambda *values: logs.hide(map(Secret, values))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_the_configurations_own_secrets_are_masked(
    formatter: logging.Formatter, hidden: Callable[..., None]
) -> None:
    secret = 'of the "operator"/é+1'
    hidden(f"Basic {secret}")
    try:
        raise ValueError(f"refused: {secret}, {secret!r}")
    except ValueError as error:
        line = formatter.format(record("failed with %s, %r", secret, [secret], error=error))
    assert "operator" not in line and line.count("***") >= 4


def test_a_secret_is_masked_also_where_a_long_line_is_cut(hidden: Callable[..., None]) -> None:
    hidden("0123456789")
    message = "x" * (logs.MAX_LINE_CHARS - 5) + "0123456789"
    for formatter in (TextFormatter(), JsonFormatter()):
        assert "01234" not in formatter.format(record(message))


def test_a_configuration_that_was_refused_does_not_make_the_running_ones_secrets_known(
    hidden: Callable[..., None],
) -> None:
    hidden("of-the-running-one")
    for _ in range(20):
        hidden("of-the-refused-one")
    assert mask("of-the-running-one of-the-refused-one") == "*** ***"


def test_no_number_of_refused_configurations_uncovers_the_one_in_force(
    monkeypatch: pytest.MonkeyPatch, hidden: Callable[..., None]
) -> None:
    monkeypatch.setattr(logs, "configure", lambda level, form: None)
    in_force = Secret("of-the-one-in-force")
    text = (
        "services: [{name: s, upstream: {scheme: http, nodes: [{host: a, port: 1, weight: 1,"
        " auth: {header: {A: of-refused-%d}}}]}, routes: [{name: r, uris: [/]}]}]"
    )
    hidden(in_force.reveal())
    for number in range(20):
        source = SimpleNamespace(load=functools.partial(loads, text % number))
        load_again(source, ProcessConfig(), frozenset([in_force]))  # type: ignore[arg-type]
        assert logs.mask(f"of-refused-{number} {in_force.reveal()}") == "*** ***"


def test_what_the_interpreter_prints_is_masked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hidden: Callable[..., None]
) -> None:
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    hidden("of-the-configuration")
    logs.hook_exceptions()
    error = ValueError("of-the-configuration")
    sys.excepthook(ValueError, error, None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    told = {"exc_type": ValueError, "exc_value": error, "exc_traceback": None, "err_msg": None}
    sys.unraisablehook(SimpleNamespace(**told, object=error))  # type: ignore[arg-type]
    assert capfd.readouterr().err == (
        "ValueError: ***\n" * 2 + "Exception ignored in: ValueError('***')\nValueError: ***\n"
    )


def test_a_text_line_has_time_level_logger_and_message() -> None:
    assert TextFormatter().format(record("it is %s", "late")) == (
        "2023-11-14T22:13:20.250Z warning fastgw.x: it is late"
    )


def test_no_message_can_forge_a_line_or_move_the_cursor() -> None:
    line = TextFormatter().format(record("a\n2023-11-14T22:13:20Z error fastgw: b\x1b[2J\u202ec\r"))
    first, second = line.split("\n")
    assert first.endswith(": a")
    assert second == "    2023-11-14T22:13:20Z error fastgw: b\\u001b[2J\\u202ec\\u000d"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_key_in_a_traceback_is_masked(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(f"refused: {KEY}")
    except ValueError as error:
        line = formatter.format(record("failed", error=error))
    assert "ValueError: refused: sk-***" in line
    assert KEY not in line


def test_a_json_line_is_one_object_with_the_fields_it_was_given() -> None:
    made = record("started\nwell %s", KEY)
    made.fields = {"listen": ["http://127.0.0.1:1"]}
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "fastgw.x",
        "message": "started\nwell sk-***",
        "listen": ["http://127.0.0.1:1"],
    }


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """A pipe in the place of standard error: (read end, write end)."""
    reading, writing = os.pipe()
    real = os.write
    monkeypatch.setattr(logs.os, "write", lambda fd, data: real(writing if fd == 2 else fd, data))
    return reading, writing


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    handler = StderrHandler()
    handler.setFormatter(TextFormatter())
    for number in range(50):
        handler.handle(record("line %d", number))
    assert handler.wait_until_written(10)
    os.close(pipe[1])
    with open(pipe[0], "rb") as written:
        assert [int(line.split()[-1]) for line in written] == list(range(50))


def test_a_reader_that_stands_still_holds_up_nobody_and_lines_are_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    go_on = threading.Event()
    real = logs.tell
    monkeypatch.setattr(logs, "tell", lambda *told: (go_on.wait(10), real(*told)))
    handler = StderrHandler()
    handler.setFormatter(TextFormatter())
    for number in range(30):
        handler.handle(record("line %d", number))
    assert 19 <= handler.dropped <= 20  # one line may be in the writer's hands
    assert not handler.wait_until_written(0.01)
    go_on.set()
    assert handler.wait_until_written(10)
    os.close(pipe[1])
    with open(pipe[0], "rb") as written:
        assert len(written.readlines()) == 30 - handler.dropped


def test_a_record_that_cannot_be_formatted_hurts_nobody(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = StderrHandler()
    handler.setFormatter(TextFormatter())
    handler.handle(record("%d", "no number"))
    assert handler.wait_until_written(10)
    os.close(pipe[1])
    os.close(pipe[0])
