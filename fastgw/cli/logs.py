"""The operational log: one line per record on standard error, as text or JSON, never with a key in it.

Lines are written by a thread of their own, so that a terminal or pipe that takes no more holds up no
request; when too many wait, further ones are dropped and counted. The secrets of the configuration, and
what looks like a key, are masked in the finished text, tracebacks included, which no filter of records
would see: nothing should ever put one there, this is the net below. The access log needs none: it is
written from fields that never hold one.
"""

import contextlib
import json
import logging
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final

from fastgw.redaction import PATTERNS, Redactor
from fastgw.secret import Secret

MAX_WAITING: Final = 4096  # lines
MAX_LINE_CHARS: Final = 64 * 1024
PATIENCE_S: Final = 1.0  # with a standard error that takes nothing, of who has better things to do

_redactor = PATTERNS
# Of the last configurations: one that was refused is told of here, too, and does not replace the running one.
_hidden: deque[frozenset[Secret]] = deque(maxlen=8)


def hide(secrets: Iterable[Secret]) -> None:
    """From now on, mask a configuration's secrets in the log."""
    global _redactor
    newest = frozenset(secrets)
    if newest in _hidden:
        _hidden.remove(newest)
    _hidden.append(newest)
    _redactor = Redactor(frozenset().union(*_hidden))


def mask(text: str) -> str:
    """The text with the secrets that are known, and what looks like one, hidden."""
    return _redactor.mask(text)


def tell(text: str, patience_s: float | None = PATIENCE_S) -> bool:
    """Write what is no record to standard error, in so far as that takes it: nobody has to listen.

    Args:
        patience_s: for how long it may take nothing; None: for as long as it likes.
    Returns:
        False if not all was taken.
    """
    data = memoryview(text.encode(errors="backslashreplace"))
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    try:
        # A pipe that is not full takes so much without a wait, and maybe no more.
        piece = len(data) if patience_s is None or stat.S_ISREG(os.fstat(2).st_mode) else select.PIPE_BUF
        while data:
            if not poller.poll(patience_s if patience_s is None else patience_s * 1000):
                return False
            with contextlib.suppress(BlockingIOError):  # others write there, too
                data = data[os.write(2, data[:piece]) :]
    except OSError:
        return False  # nobody listens any more, or the disk is full
    return True


def _printable(text: str) -> str:
    """Line breaks stay; whatever else could move a terminal's cursor or turn its text is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def _utc(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


class TextFormatter(logging.Formatter):
    """``time level logger: message``; lines after the first are indented, so no record forges another."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        name = f"{record.name}: {source}" if (source := getattr(record, "source", None)) else record.name
        line = f"{_utc(record.created)} {record.levelname.lower():7} {name}: {mask(text)[:MAX_LINE_CHARS]}"
        return _printable(line).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, and ``source`` and ``exception`` where there is one.

    Further fields come from ``extra={"fields": {...}}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage())[:MAX_LINE_CHARS],
        }
        if source := getattr(record, "source", None):
            entry["source"] = source
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))[:MAX_LINE_CHARS]
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            entry |= fields
        return PATTERNS.mask(json.dumps(entry, default=str))


FORMATTERS: Final[dict[str, Callable[[], logging.Formatter]]] = {"text": TextFormatter, "json": JsonFormatter}


class StderrHandler(logging.Handler):
    """Hands finished lines to a thread that writes them to standard error.

    While ``is_direct`` there is no thread, so that the process can fork: a line is written at once,
    or dropped if it would have to wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_direct = False
        self.source: str | None = None  # which of several processes this is
        self.dropped = 0
        self._is_torn = False  # of the last line only the beginning was written
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        record.source = self.source
        try:
            if self.is_direct:
                self._write_if_taken(self.format(record))
                return
            if self._queue.qsize() >= MAX_WAITING:
                self.dropped += 1
                return
            self._queue.put(self.format(record))
        except Exception:  # whatever a log record holds, it must not hurt who wrote it
            self.handleError(record)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
            else:
                tell(item + "\n", None)

    def _write_if_taken(self, line: str) -> None:
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        if not poller.poll(0):
            self.dropped += 1
            return
        self._is_torn = not tell("\n" * self._is_torn + line + "\n", 0.0)
        self.dropped += self._is_torn

    def wait_until_written(self, timeout_s: float) -> bool:
        """Wait for the lines so far; False if they were not taken in time."""
        if self._thread is None:
            return True
        written = threading.Event()
        self._queue.put(written)
        return written.wait(timeout_s)


_handler: StderrHandler | None = None


def configure(level: str, form: str) -> None:
    """Log from this level on, in this form. May be called again."""
    global _handler
    root = logging.getLogger()
    if _handler is None:
        _handler = StderrHandler()
        root.addHandler(_handler)
        root.setLevel(logging.WARNING)  # other packages' chatter is not ours
        logging.captureWarnings(True)
        logging.raiseExceptions = False
    _handler.setFormatter(FORMATTERS[form]())
    logging.getLogger("fastgw").setLevel(level.upper())


def hook_exceptions() -> None:
    """Mask also what the interpreter itself says, of exceptions that nobody has caught."""
    sys.excepthook = _say
    threading.excepthook = lambda told: _say(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: _say(
        told.exc_type,
        told.exc_value,
        told.exc_traceback,
        f"{told.err_msg or 'Exception ignored in'}: {told.object!r}\n",
    )


def _say(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, before: str = ""
) -> None:
    text = before + "".join(traceback.format_exception(kind, error, trace))
    tell(mask(text))


def before_forks() -> None:
    """From now on there is no thread. Call before the first line; ``configure`` has been called."""
    assert _handler is not None
    _handler.is_direct = True


def after_fork(source: str) -> None:
    """In the child: write with a thread again, and name the source in every line."""
    assert _handler is not None and _handler.formatter is not None
    _handler.is_direct = False
    _handler.source = source
    _handler.dropped = 0  # the parent tells of its own


def close(timeout_s: float = 2.0) -> None:
    """Write what waits, before the process ends."""
    if _handler is not None:
        _handler.wait_until_written(timeout_s)
        if _handler.dropped:
            tell(f"fastgw: {_handler.dropped} lines of the log were dropped\n")
