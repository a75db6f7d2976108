"""Processes that are forked, watched, replaced when they die or stand still, and outlived.

The supervisor has no event loop and no thread, so that it can fork at any time, and reads no
request. It sleeps until a signal, a message or the end of a child wakes it, or a term is over.
What it is told by signals it passes on as messages: a signal that a terminal or a service manager
sends to all processes at once reaches each child once, and none before it can take it.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple, NoReturn

logger = logging.getLogger("fastgw.supervisor")

FAILURE = 1  # exit code where a child's own says nothing
KILL_AFTER_S = 1.0  # what does not end by SIGABRT ends by SIGKILL
MOST_WORD_BYTES = 64

# What a child is told.
DRAIN = "drain"
STOP = "stop"
REOPEN = "reopen"
# What a child tells.
READY = "ready"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


# --- Decisions --------------------------------------------------------------------------------


class Backoff:
    """How long a dead child's place stays empty: not at all, unless it dies again and again at once.

    Args:
        reset_s: who has served that long did not die of being started.
    """

    def __init__(self, first_s: float = 0.1, max_s: float = 5.0, reset_s: float = 1.0) -> None:
        self.first_s = first_s
        self.max_s = max_s
        self.reset_s = reset_s
        self._next_s = 0.0

    def delay_s(self, served_s: float) -> float:
        """The wait after a life of ``served_s``: 0 at first, then doubling up to ``max_s``."""
        if served_s >= self.reset_s:
            self._next_s = 0.0
        delay = self._next_s
        self._next_s = min(max(self.first_s, 2 * delay), self.max_s)
        return delay


class HangWatch:
    """Decides who has been silent for too long.

    If the watch itself comes late, the whole machine may have stood still. Then nobody is judged by
    what was before: each has the whole limit again.

    Args:
        limit_s: silence that is too long.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self.limit_s = limit_s
        self.interval_s = limit_s / 4
        self._looked_at = now
        self._excused_until = 0.0  # silence before this does not count

    @property
    def due(self) -> float:
        """When to look again."""
        return self._looked_at + self.interval_s

    def look(self, now: float) -> None:
        """Call before ``silence_s``, each time."""
        if now - self._looked_at > 2 * self.interval_s:
            self._excused_until = now
        self._looked_at = now

    def silence_s(self, last: float) -> float:
        """For how long nothing was heard from whoever was last heard at ``last``."""
        return self._looked_at - max(last, self._excused_until)

    def is_hung(self, last: float) -> bool:
        return self.silence_s(last) > self.limit_s


def ending(status: int) -> str:
    """A status of ``waitpid`` in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


# --- Messages ---------------------------------------------------------------------------------


class Message(NamedTuple):
    """A word, and bytes of any number."""

    word: str
    payload: bytes = b""


class Channel:
    """One end of the connection between the supervisor and a child. Neither end ever waits.

    A payload travels as a file in memory, so that no message is too large for the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._spare = _spare_descriptor()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, word: str, payload: bytes = b"") -> None:
        """Raises BlockingIOError if the other end takes no more, another OSError if it is gone."""
        with payload_file(payload) as file:
            self.send_with(word, file)

    def send_with(self, word: str, file: int | None) -> None:
        """As ``send``, with what ``payload_file`` has made."""
        if file is None:
            self._sock.send(word.encode())
        else:
            socket.send_fds(self._sock, [word.encode()], [file])

    def receive(self) -> Message | None:
        """The next message, or None if the other end is gone.

        Raises:
            BlockingIOError: there is none now.
            OSError: there was one, and no descriptor for its payload, which is lost.
        """
        self._let_spare_go()  # a payload arrives as a descriptor, also when there is none left
        payload = b""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, MOST_WORD_BYTES, 1)
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            for descriptor in descriptors:
                # (A file's position is shared with the sender, and all that it is sent to.)
                payload = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
                os.close(descriptor)
        except ConnectionResetError:
            return None
        finally:
            self._spare = _spare_descriptor()
        return Message(data.decode(), payload) if data else None

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._sock.close()
            self._let_spare_go()

    def _let_spare_go(self) -> None:
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)


@contextmanager
def payload_file(payload: bytes) -> Iterator[int | None]:
    """A file in memory with these bytes, or None if there are none. Raises OSError: it cannot be made."""
    if not payload:
        yield None
        return
    with os.fdopen(os.memfd_create("fastgw-message", os.MFD_CLOEXEC), "wb") as file:
        file.write(payload)
        file.flush()
        yield file.fileno()


def _spare_descriptor() -> int:
    """One that is kept for when there is none left; -1: there is none left."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


# --- Children ---------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Role:
    """What one child is for; its process may change.

    Args:
        name: in the log.
        main: runs in the child and returns its exit code. It tells READY when it serves, and ends
            when it is told to or when its channel's other end is gone.
        on_message: told of every message but READY's word; READY comes with its payload.
        on_death: called before the place is taken again.
        on_pause: called when the place stays empty for a while, since the child dies of being started.
        last_beat: when the child was last seen alive, monotonic seconds; None: it is not watched.
        ends_last: it is needed until all others have ended.
    """

    name: str
    main: Callable[[Channel], int]
    on_message: Callable[[Message], None] = lambda message: None
    on_death: Callable[[], None] = lambda: None
    on_pause: Callable[[], None] = lambda: None
    last_beat: Callable[[], float] | None = None
    ends_last: bool = False

    pid: int = field(default=0, init=False)  # 0: there is no process now
    channel: Channel | None = field(default=None, init=False)
    is_ready: bool = field(default=False, init=False)
    started_at: float = field(default=0.0, init=False)
    due: float | None = field(default=None, init=False)  # when to start it again
    kill_due: float | None = field(default=None, init=False)  # it hangs, and has been told to end
    backoff: Backoff = field(default_factory=Backoff, init=False)


class Supervisor:
    """Runs roles until a signal ends it.

    Args:
        on_started: called once, when all are ready.
        on_hangup: what a SIGHUP asks for.
        on_ending: called once, before anybody is told to end: nothing new may come in from now on.
        hang_limit_s: a watched child that shows no sign of life for so long is replaced.
    """

    def __init__(
        self,
        *,
        on_started: Callable[[], None],
        on_hangup: Callable[[], None],
        on_ending: Callable[[], None],
        hang_limit_s: float,
    ) -> None:
        self.roles: list[Role] = []
        self.has_started = False
        self.is_ending = False
        self.exit_code = 0
        self._on_started = on_started
        self._on_hangup = on_hangup
        self._on_ending = on_ending
        self._watch = HangWatch(hang_limit_s, monotonic())
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._came: list[int] = []  # signals that nobody has seen to yet

    def run(self, *stages: list[Role]) -> int:
        """Start one stage after the other, each when the one before is ready; returns the exit code.

        A child that ends before all are ready ends everything, with its exit code: what stops it
        would stop it again.
        """
        with self._signals():
            for stage in stages:
                self.roles += stage
                for role in stage:
                    if not self.is_ending:
                        self._fork(role)
                while not self.is_ending and not all(role.is_ready for role in stage):
                    self._turn()
            if not self.is_ending:
                self.has_started = True
                self._on_started()
            while self._has_children() or not self.is_ending:
                self._turn()
        self._selector.close()
        return self.exit_code

    def tell(self, word: str, payload: bytes = b"", *, role: Role | None = None) -> bool:
        """Send one child, or each, a message. One that cannot be told is replaced: it would know less
        than the others. False: nobody could be told, for want of descriptors or memory of our own."""
        try:
            with payload_file(payload) as file:
                for child in [role] if role is not None else self.roles:
                    self._tell(child, word, file)
        except OSError as error:
            logger.error("nobody can be told %s (%s)", word, error.strerror)
            return False
        return True

    def _tell(self, child: Role, word: str, file: int | None) -> None:
        if child.channel is None:
            return
        try:
            child.channel.send_with(word, file)
        except ConnectionError:
            pass  # it has died: SIGCHLD is on its way
        except OSError as error:  # BlockingIOError: it reads nothing
            logger.error("%s (pid %d) cannot be told %s (%s)", child.name, child.pid, word, error.strerror)
            self._kill(child, signal.SIGKILL)

    def _has_children(self) -> bool:
        return any(role.pid for role in self.roles)

    # --- Turning ------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note signals, and see to them between two turns; a byte in a socket ends the wait for them.

        The socket alone would not do: in a crowd of signals it is full before a reload is over, and
        what comes then, the end of a child or of us all, would never be seen.
        """
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        handled = (*_SIGNALS, signal.SIGCHLD)
        wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._note_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            self._woken.close()
            self._waker.close()

    def _turn(self) -> None:
        """Wait for the next thing to happen, and see to it."""
        now = monotonic()
        dues = [due for role in self.roles for due in (role.due, role.kill_due) if due is not None]
        timeout = max(0.0, min([self._watch.due, *dues]) - now)
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._read_signals()
            else:
                self._read_messages(key.data)
        now = monotonic()
        if now >= self._watch.due:
            self._look_for_hung(now)
        for role in self.roles:
            if role.kill_due is not None and now >= role.kill_due:
                role.kill_due = None
                self._kill(role, signal.SIGKILL)
            if role.due is not None and now >= role.due:
                role.due = None
                self._fork(role)

    def _note_signal(self, number: int, _frame: object) -> None:
        """A handler. Once more than once matters only where the second one hurries."""
        if self._came.count(number) < (2 if number in (signal.SIGTERM, signal.SIGINT) else 1):
            self._came.append(number)

    def _read_signals(self) -> None:
        with suppress(BlockingIOError):
            while len(self._woken.recv(4096)) == 4096:
                pass
        came, self._came = self._came, []
        # A reload takes long, and not at all where the end has been asked for: it comes last.
        for number in sorted(came, key=lambda number: number == signal.SIGHUP):
            self._take_signal(number)

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._end(DRAIN)
        elif number == signal.SIGQUIT:
            self._end(STOP)
        elif number == signal.SIGHUP and self.has_started and not self.is_ending:
            self._on_hangup()
        elif number == signal.SIGUSR1:
            self.tell(REOPEN)

    def _read_messages(self, role: Role) -> None:
        channel = role.channel
        while channel is not None:
            try:
                message = channel.receive()
            except BlockingIOError:
                return
            except OSError as error:
                logger.error("%s (pid %d) cannot be heard (%s)", role.name, role.pid, error.strerror)
                self.tell(DRAIN, role=role)  # it may know more than the others: another takes its place
                return
            if message is None:  # its end comes with SIGCHLD; until then there is nothing to read
                if channel.fileno() in self._selector.get_map():
                    self._selector.unregister(channel)
                return
            if message.word == READY:
                role.is_ready = True
            role.on_message(message)

    # --- Birth and death ----------------------------------------------------------------------

    def _fork(self, role: Role) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the child's own handlers would be reported twice.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_SIGNALS, signal.SIGCHLD})
        ends: tuple[Channel, ...] = ()
        try:
            ours, theirs = ends = Channel.pair()
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_child(role, theirs, before)
        except OSError as error:  # too many processes or descriptors, too little memory: that may pass
            for end in ends:
                end.close()
            delay = max(role.backoff.first_s, role.backoff.delay_s(0.0))
            logger.error("%s cannot be started (%s); again in %.1f s", role.name, error.strerror, delay)
            role.due = monotonic() + delay
            if not self.has_started:
                self._fail(FAILURE)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        role.pid = pid
        role.channel = ours
        role.is_ready = False
        role.kill_due = None
        role.started_at = monotonic()
        self._selector.register(ours, selectors.EVENT_READ, role)

    def _be_child(self, role: Role, channel: Channel, mask: set[int]) -> NoReturn:
        """Let go of everything that is the supervisor's, and be the role."""
        code = FAILURE
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Others' channels must not stay open here: their ends would not be seen.
            for other in self.roles:
                if other.channel is not None:
                    other.channel.close()
            self._selector.close()
            self._woken.close()
            self._waker.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = role.main(channel)
        except BaseException:
            logger.exception("%s ended by a fault of its own", role.name)
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # what was registered to run at exit belongs to the supervisor

    def _reap(self) -> None:
        for role in self.roles:
            if not role.pid:
                continue
            try:
                pid, status = os.waitpid(role.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = role.pid, FAILURE << 8
            if pid:
                self._died(role, status)
        if self.is_ending:
            self._end_the_last()

    def _died(self, role: Role, status: int) -> None:
        self._read_messages(role)  # what it said before
        assert role.channel is not None
        if role.channel.fileno() in self._selector.get_map():
            self._selector.unregister(role.channel)
        role.channel.close()
        pid, role.pid, role.channel, role.kill_due = role.pid, 0, None, None
        role.on_death()
        now = monotonic()
        served = now - role.started_at
        code = os.waitstatus_to_exitcode(status)
        if self.is_ending:
            if code != 0:
                self.exit_code = self.exit_code or FAILURE
                logger.warning("%s (pid %d) %s while ending", role.name, pid, ending(status))
        elif not self.has_started:
            if code <= 0:
                logger.error("%s (pid %d) %s before it was ready", role.name, pid, ending(status))
            self._fail(code if code > 0 else FAILURE)
        else:
            delay = role.backoff.delay_s(served)
            if delay:
                role.on_pause()  # before anybody is told: from then on no connection goes there
            when = f"in {delay:.1f} s" if delay else "at once"
            logger.error(
                "%s (pid %d) %s after %.1f s; starting it again %s",
                role.name, pid, ending(status), served, when,
            )  # fmt: skip
            role.due = now + delay

    def _look_for_hung(self, now: float) -> None:
        self._watch.look(now)
        for role in self.roles:
            if not role.pid or role.last_beat is None or role.kill_due is not None:
                continue
            last = max(role.last_beat(), role.started_at)
            if self._watch.is_hung(last):
                logger.error(
                    "%s (pid %d) has stood still for %.1f s: ending it",
                    role.name, role.pid, self._watch.silence_s(last),
                )  # fmt: skip
                self._kill(role, signal.SIGABRT)  # it says where it stands
                role.kill_due = now + KILL_AFTER_S

    @staticmethod
    def _kill(role: Role, number: signal.Signals) -> None:
        if role.pid:
            try:
                os.kill(role.pid, number)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise

    # --- Ending -------------------------------------------------------------------------------

    def _fail(self, code: int) -> None:
        self.exit_code = self.exit_code or code
        self._end(STOP)

    def _end(self, word: str) -> None:
        """Tell all to end. DRAIN for the second time hurries them, as a signal does that comes twice."""
        if not self.is_ending:
            self.is_ending = True
            self._on_ending()
        for role in self.roles:
            role.due = None
            if not role.ends_last:
                self.tell(word, role=role)
        self._end_the_last()

    def _end_the_last(self) -> None:
        if not any(role.pid for role in self.roles if not role.ends_last):
            for role in self.roles:
                self.tell(STOP, role=role)
