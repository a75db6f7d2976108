"""The access log: one line per exchange, written where a slow disk cannot be felt.

``record`` renders the line at once, on the loop's thread, and puts it into a queue; a daemon thread of
its own takes the lines out in batches and writes them.  Rendering is not left to the thread, because a
burst of it there would hold the interpreter lock for milliseconds while the loop waits.  The queue is
bounded in bytes: when the disk is full or the pipe is blocked, lines are dropped and counted, and no
request waits.

No line holds a body or a key: an ``Entry`` has no field for either, the query is cut off every path, and
what still looks like a key is masked.  Whatever a client chose (path, request id, model) is bounded and
escaped, so that it can start no line of its own, forge no field and send nothing to a terminal.
"""

import errno
import logging
import math
import os
import re
import select
import stat
import threading
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Literal, NamedTuple

import orjson

logger = logging.getLogger(__name__)

Format = Literal["text", "json"]

MAX_VALUE_CHARS: Final = 512  # of one value; a longer one is cut and ends in "..."
MAX_ATTEMPTS: Final = 64  # listed per line; the rest is only counted
BATCH_BYTES: Final = 256 * 1024  # handed to one write at most
GATHER_S: Final = 0.05  # how long the first line of a batch waits for company
LINE_OVERHEAD: Final = 64  # bytes a queued line costs beside its text
STDOUT: Final = 1

# What may stand bare after "key=": printable ASCII without space, quote, "=", "," and backslash.
_BARE = re.compile(r"[!#-+\--<>-\[\]-~]+")
# What may stand between quotes: printable ASCII without quote and backslash.
_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e]")
# The second net under "no key is ever logged": a client may have put its key into the path.
_KEY = re.compile(rb"\bsk-[\w-]{8,}|(?<=earer)(?: |\+|%20)[\w.~+/=-]{8,}")


class AttemptEntry(NamedTuple):
    """One attempt of an exchange. A plain tuple of the same four values serves as well."""

    node: str
    outcome: str
    status: int  # 0: the node sent no head
    seconds: float


@dataclass(slots=True)
class Entry:
    """What the log says of one exchange.

    ``time`` is wall time, seconds since 1970; durations are seconds of a monotonic clock.  ``bytes`` is what
    was sent to the client as body.  ``tokens`` is (prompt, completion).  ``consumer`` is the *name* of the
    client key.  ``note`` says what an operator would want to know of this exchange alone.
    """

    time: float
    request_id: str
    client: str
    method: str
    path: str
    route: str
    status: int
    bytes: int
    duration_s: float
    ttft_s: float | None = None
    model_asked: str | None = None
    model_used: str | None = None
    tokens: tuple[int, int] | None = None
    attempts: tuple[tuple[str, str, int, float], ...] = ()
    consumer: str | None = None
    note: str | None = None


# --- Rendering --------------------------------------------------------------------------------


def _cut(value: str) -> str:
    return value if len(value) <= MAX_VALUE_CHARS else value[:MAX_VALUE_CHARS] + "..."


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _quote(value: str) -> str:
    """``value`` between quotes: ASCII only, one line, and reversible."""
    value = _cut(value)
    if not _PLAIN.fullmatch(value):
        value = value.replace("\\", "\\\\").replace('"', '\\"')
        value = _NOT_PRINTABLE_ASCII.sub(lambda found: _escape(found[0]), value)
    return f'"{value}"'


def _value(value: str | None) -> str:
    """``value`` as it stands after ``key=``: bare if nothing in it can be mistaken, else quoted."""
    if value is None:
        return "-"
    if len(value) <= MAX_VALUE_CHARS and value != "-" and _BARE.fullmatch(value):
        return value
    return _quote(value)


def _without_query(path: str) -> str:
    """The path alone: keys travel in queries, and in fragments by mistake."""
    return path.partition("?")[0].partition("#")[0]


class _Clock:
    """Wall time as ISO 8601 in UTC with milliseconds; the text of a second is made once."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, wall: float) -> str:
        if not 0.0 <= wall < 253402300800.0:  # year 10000; also catches nan
            return "-"
        second = int(wall)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{int((wall - second) * 1000):03d}Z"


def _seconds(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _attempts_text(attempts: tuple[tuple[str, str, int, float], ...]) -> str:
    if not attempts:
        return "-"
    shown = ",".join(
        f"{_value(node)}:{_value(outcome)}:{status or '-'}:{_seconds(seconds)}"
        for node, outcome, status, seconds in attempts[:MAX_ATTEMPTS]
    )
    more = len(attempts) - MAX_ATTEMPTS
    return shown if more <= 0 else f"{shown},+{more}"


def render_text(entry: Entry, when: str) -> bytes:
    """A head as in the combined log format, then ``key=value``; ``-`` stands for "none"."""
    prompt, completion = entry.tokens or ("-", "-")
    line = (
        f"{_value(entry.client)} - {_value(entry.consumer)} [{when}] "
        f"{_quote(entry.method + ' ' + _without_query(entry.path))} {entry.status} {entry.bytes} "
        f"request_id={_value(entry.request_id)} route={_value(entry.route)} "
        f"duration_s={_seconds(entry.duration_s)} ttft_s={_seconds(entry.ttft_s)} "
        f"model_asked={_value(entry.model_asked)} model_used={_value(entry.model_used)} "
        f"prompt_tokens={prompt} completion_tokens={completion} "
        f"attempts={_attempts_text(entry.attempts)} note={_value(entry.note)}\n"
    )
    return line.encode("ascii")


def _printable(value: str | None) -> str | None:
    """A bounded string that JSON can hold: lone surrogates (undecodable bytes) become escapes."""
    if value is None or (len(value) <= MAX_VALUE_CHARS and value.isascii()):
        return value
    return _cut(value).encode("utf-8", "backslashreplace").decode()


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def render_json(entry: Entry, when: str) -> bytes:
    """One JSON object, the same keys in every line; null stands for "none". ASCII only."""
    prompt, completion = entry.tokens or (None, None)
    line = orjson.dumps(
        {
            "time": when,
            "request_id": _printable(entry.request_id),
            "client": _printable(entry.client),
            "consumer": _printable(entry.consumer),
            "method": _printable(entry.method),
            "path": _printable(_without_query(entry.path)),
            "route": _printable(entry.route),
            "status": entry.status,
            "bytes": entry.bytes,
            "duration_s": _rounded(entry.duration_s),
            "ttft_s": _rounded(entry.ttft_s),
            "model_asked": _printable(entry.model_asked),
            "model_used": _printable(entry.model_used),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "attempts": [
                {
                    "node": _printable(node),
                    "outcome": _printable(outcome),
                    "status": status or None,
                    "seconds": _rounded(seconds),
                }
                for node, outcome, status, seconds in entry.attempts[:MAX_ATTEMPTS]
            ],
            "attempts_left_out": max(0, len(entry.attempts) - MAX_ATTEMPTS),
            "note": _printable(entry.note),
        }
    )
    if line.isascii() and b"\x7f" not in line:  # JSON itself escapes what is below 0x20
        return line + b"\n"
    # Outside ASCII there are control characters too (C1, line separators, changes of direction).
    text = _NOT_PRINTABLE_ASCII.sub(lambda found: _json_escape(found[0]), line.decode())
    return text.encode("ascii") + b"\n"


def _json_escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


# --- Writing ----------------------------------------------------------------------------------


class _Reopen:
    """Put into the queue by ``reopen``: the lines before it belong to the old file."""


class _Close:
    """Put into the queue by ``close``: nothing comes after it."""


class AccessLog:
    """Writes entries to standard output (``-``), to a file, or nowhere (``None``).

    ``record`` and ``reopen`` never block and belong to one thread, the loop's.  The writing thread starts
    with the first line, so a log made before a fork works in the child that uses it.

    Counters, all of lines: ``recorded``, ``written``, ``dropped``.  When nothing is buffered,
    ``recorded == written + dropped``.

    Raises:
        OSError: the destination cannot be opened.
        ValueError: a format or a bound that makes no sense.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str] | None,
        format: Format = "text",
        *,
        max_buffer_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        if format not in ("text", "json"):
            raise ValueError(f"access log format must be text or json, not {format!r}")
        if max_buffer_bytes < 1:
            raise ValueError("max_buffer_bytes must be at least 1")
        self.destination = None if destination is None else os.fspath(destination)
        self.format: Format = format
        self.max_buffer_bytes = max_buffer_bytes
        self.recorded = 0
        self._render = render_text if format == "text" else render_json
        self._clock = _Clock()
        self._queue: SimpleQueue[bytes | threading.Event | _Reopen | _Close] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._queued_bytes = 0  # only the loop's thread writes it
        self._refused = 0  # only the loop's thread writes it
        # The next five are written by the writing thread only; the other side reads them.
        self._taken_bytes = 0
        self._lost = 0
        self._written = 0
        self._fault: str | None = None
        self._is_torn = False  # the last byte written was not the end of a line
        self._is_gone = False  # nobody reads our standard output any more
        self._hurry = threading.Event()  # somebody waits: do not gather
        self._fd = -1
        self._group_bytes = 0
        if self.destination is not None:
            self._open()

    def __repr__(self) -> str:
        return (
            f"<AccessLog {self.destination or 'off'} {self.format} written={self._written} "
            f"dropped={self.dropped} buffered={self.buffered_bytes}>"
        )

    @property
    def is_enabled(self) -> bool:
        """False when an entry need not be made at all: the log is off, closed, or its reader has gone."""
        return self.destination is not None and not self._closed and not self._is_gone

    @property
    def written(self) -> int:
        return self._written

    @property
    def dropped(self) -> int:
        """Lines lost: to a full buffer, to a destination that refused them, to a reader that left."""
        return self._refused + self._lost

    @property
    def buffered_bytes(self) -> int:
        return self._queued_bytes - self._taken_bytes

    # --- The loop's side ---

    def record(self, entry: Entry) -> None:
        """Queue the line of ``entry``, or drop and count it; never waits, never raises for its content."""
        if self.destination is None:
            return
        self.recorded += 1
        if self._closed or self._is_gone:
            self._refused += 1
            return
        buffered = self._queued_bytes - self._taken_bytes
        if buffered >= self.max_buffer_bytes:  # full: do not even render
            self._refused += 1
            return
        line = self._render(entry, self._clock.text(entry.time))
        if b"sk-" in line or b"earer" in line:
            line = _KEY.sub(b"***", line)
        cost = len(line) + LINE_OVERHEAD
        if buffered + cost > self.max_buffer_bytes:
            self._refused += 1
            return
        if self._thread is None:
            self._start()
        self._queued_bytes += cost
        self._queue.put(line)

    def reopen(self) -> None:
        """Open the file anew by its name, after the lines recorded so far: the log was rotated."""
        if self._closed or self.destination in (None, "-"):
            return
        if self._thread is None:
            self._start()
        self._queue.put(_Reopen())

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until every line recorded before is written or dropped; False if that took too long."""
        if self._thread is None or not self._thread.is_alive():
            return self.buffered_bytes == 0
        done = threading.Event()
        self._queue.put(done)
        self._hurry.set()
        return done.wait(timeout_s)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what is buffered and end; False if the destination did not take it in time.

        The thread is left behind then: it is a daemon, and the process may exit.
        """
        if self._closed:
            return self._thread is None or not self._thread.is_alive()
        self._closed = True
        if self._thread is None:
            self._close_descriptor()
            return True
        self._queue.put(_Close())
        self._hurry.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    # --- The writing thread ---

    def _run(self) -> None:
        item: bytes | threading.Event | _Reopen | _Close | None
        while True:
            item = self._queue.get()
            if isinstance(item, bytes):
                if self._queue.empty():
                    self._hurry.wait(GATHER_S)
                item = self._write_batch(item)
            self._hurry.clear()
            if isinstance(item, threading.Event):
                item.set()
            elif isinstance(item, _Reopen):
                self._reopen()
            elif isinstance(item, _Close):
                self._close_descriptor()
                return

    def _write_batch(self, first: bytes) -> threading.Event | _Reopen | _Close | None:
        """Write ``first`` and what is queued behind it, up to a bound; return what ended the batch early."""
        lines = [first]
        size = len(first)
        ended_by: threading.Event | _Reopen | _Close | None = None
        while size < BATCH_BYTES:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if not isinstance(item, bytes):
                ended_by = item
                break
            lines.append(item)
            size += len(item)
        self._write_lines(lines)
        self._taken_bytes += size + LINE_OVERHEAD * len(lines)
        return ended_by

    def _write_lines(self, lines: list[bytes]) -> None:
        """Write whole lines in groups; what a group could not write is lost and counted."""
        start = 0
        while start < len(lines):
            if self._is_gone:
                self._lost += len(lines) - start
                return
            end = start + 1
            size = len(lines[start])
            while end < len(lines) and size + len(lines[end]) <= self._group_bytes:
                size += len(lines[end])
                end += 1
            self._write_group(lines[start:end])
            start = end

    def _write_group(self, lines: list[bytes]) -> None:
        if self._fd < 0 and not self._try_open():
            self._lost += len(lines)
            return
        data = b"".join(lines)
        if self._is_torn:  # end the torn line, so that it spoils no other
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):
                try:
                    done += os.write(self._fd, data[done:] if done else data)
                except BlockingIOError:  # somebody made our descriptor non-blocking
                    if not self._wait_until_writable():
                        raise
        except OSError as error:
            whole = data[:done].count(b"\n") - (1 if self._is_torn and done else 0)
            self._written += whole
            self._lost += len(lines) - whole
            if done:
                self._is_torn = not data[:done].endswith(b"\n")
            self._failed(error)
        else:
            self._written += len(lines)
            self._is_torn = False
            self._recovered()

    def _wait_until_writable(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while not self._closed:
            if poller.poll(200):
                return True
        return bool(poller.poll(200))

    def _failed(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            if self.destination == "-":
                self._is_gone = True
                logger.warning("access log: nobody reads standard output any more; logging no more lines")
                return
            self._close_descriptor()  # a named pipe: another reader may come
            self._is_torn = False
        if self._fault != reason:  # once per spell, not once per line
            self._fault = reason
            logger.warning("access log: %s: %s; lines are dropped and counted", self.destination, reason)

    def _recovered(self) -> None:
        if self._fault is not None:
            self._fault = None
            logger.warning("access log: %s: writing again; %d lines were lost", self.destination, self._lost)

    # --- Opening and closing ---

    def _open(self) -> None:
        if self.destination == "-":
            fd = os.dup(STDOUT)
        else:
            assert self.destination is not None
            # O_NONBLOCK: a named pipe without a reader is an error (ENXIO), not a wait.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
            fd = os.open(self.destination, flags, 0o640)
            os.set_blocking(fd, True)
        self._fd = fd
        # Several workers may share the destination. An append to a file is never torn by another; a write
        # to a pipe is whole only up to PIPE_BUF.
        self._group_bytes = BATCH_BYTES * 2 if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def _try_open(self) -> bool:
        try:
            self._open()
        except OSError as error:
            self._failed(error)
            return False
        return True

    def _reopen(self) -> None:
        old = self._fd
        try:
            self._open()
        except OSError as error:
            where = "still writing to the old one" if old >= 0 else "lines are dropped and counted"
            logger.warning(
                "access log: %s: cannot open it anew (%s); %s", self.destination, error.strerror, where
            )
            return
        self._is_torn = False
        if old >= 0:
            os.close(old)

    def _close_descriptor(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
