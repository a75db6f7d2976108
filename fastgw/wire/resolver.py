"""Names to addresses, asked in the background and never by a request.

A name is asked once when it is first wanted and from then on by a timer, so that dialling finds the
answer in memory.  When the name service fails, the last good addresses go on serving for a while.
``getaddrinfo`` runs in daemon threads of our own: a hung one delays nobody, not even the exit.
"""

import asyncio
import functools
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from fastgw.errors import ConfigError, ResolveFailed

# Their traffic carries keys that anybody could use: a poisoned name service must not bring it home.
PUBLIC_HOSTS = frozenset({"api.openai.com", "api.deepseek.com"})

RETRY_FIRST_S = 1.0  # after a failed query, doubling up to the refresh interval
RETRY_WITHOUT_S = 5.0  # the longest pause while a name has no address at all
ABANDON_S = 30.0  # a query that hung for so long will not stop another one
WINNER_S = 600.0  # an address that won a race is tried first for so long (RFC 8305, 4)
MAX_THREADS = 16
MAX_THREADS_OF_NAME = 2  # so that a name whose queries hang for good leaves the others theirs
MAX_ADDRESSES = 64  # of one name; every sweep looks at all of them
MAX_NAMES = 1024
MAX_WINNERS = 1024

NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Inside, though ``ipaddress`` calls them global: IPv4 in IPv6 (RFC 4291, 2.5.5.1; RFC 2765), a network's
# own NAT64 (RFC 8215), site-local (RFC 3879).
INSIDE = tuple(
    ipaddress.ip_network(text) for text in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10")
)

FAILURES: dict[int | None, str] = {
    socket.EAI_NONAME: "name not found",
    socket.EAI_AGAIN: "temporary failure",
    socket.EAI_FAIL: "name server failure",
    getattr(socket, "EAI_NODATA", None): "name has no address",
}


class Address(NamedTuple):
    """One place to dial. ``family`` is AF_INET or AF_INET6, ``host`` a numeric address."""

    family: int
    host: str
    port: int


class ConnectTo(NamedTuple):
    """Dial ``to_host``:``to_port`` instead of ``host``:``port``; "" and 0 stand for any, or the same."""

    host: str
    port: int
    to_host: str
    to_port: int


Query = Callable[[str], Iterable[tuple[int, str]]]
"""Blocking: (family, numeric address) pairs of a name, best first, or raises OSError."""

Start = Callable[[Callable[[], None]], object]
"""Runs a blocking job somewhere else, at once or later."""


def parse_connect_to(text: str) -> ConnectTo:
    """Parse curl's ``HOST:PORT:HOST2:PORT2``; any part may be empty, IPv6 addresses stand in brackets.

    Raises:
        ConfigError: the text has not this form.
    """
    parts = []
    rest = text
    while True:
        if rest.startswith("["):
            host, bracket, rest = rest[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ConfigError(f"expected HOST:PORT:HOST2:PORT2, got {text!r}")
            parts.append(host)
            more, rest = rest[:1], rest[1:]
        else:
            part, more, rest = rest.partition(":")
            parts.append(part)
        if not more:
            break
    if len(parts) != 4:
        raise ConfigError(f"expected HOST:PORT:HOST2:PORT2, got {text!r} (IPv6 addresses in brackets)")
    return ConnectTo(parts[0], _port(parts[1], text), parts[2], _port(parts[3], text))


def _port(digits: str, text: str) -> int:
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ConfigError(f"{digits!r} is not a port, in {text!r}")
    return int(digits)


def system_query(name: str) -> list[tuple[int, str]]:
    """Ask the system (hosts file, DNS, whatever it is set up with). Blocks."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    # A link-local address is none without its zone, which stands apart: (address, port, flow, zone).
    return [
        (int(family), f"{where[0]}%{where[3]}" if len(where) == 4 and where[3] else str(where[0]))
        for family, _, _, _, where in found
    ]


def start_daemon_thread(job: Callable[[], None]) -> None:
    threading.Thread(target=job, name="fastgw-resolver", daemon=True).start()


@functools.lru_cache(1024)  # of the nodes' hosts, which every sweep asks for
def literal(host: str) -> tuple[int, str] | None:
    """Return (family, address) if ``host`` is one already, in brackets or not; else None."""
    bare = _bare(host)
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return None
    return (int(socket.AF_INET if version == 4 else socket.AF_INET6), bare)


def is_public(address: str) -> bool:
    """False for private, loopback, link-local, multicast and the like, also when wrapped in IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif any(ip in network for network in INSIDE):
            return False
    return ip.is_global and not ip.is_multicast


def interleave(found: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Alternate the families, each in its given order, the first one's first (RFC 8305, 4)."""
    families: dict[int, deque[tuple[int, str]]] = {}
    for place in dict.fromkeys(found):
        families.setdefault(place[0], deque()).append(place)
    mixed = []
    while families:
        for family in list(families):
            mixed.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return mixed


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _plain(host: str) -> str:
    """The form in which names are compared: lower case, neither brackets nor the root's dot."""
    return _bare(host).lower().removesuffix(".")


class _Name:
    """What is known of one name."""

    __slots__ = (
        "addresses",
        "asked_at",
        "due",
        "error",
        "failures",
        "generation",
        "is_asking",
        "resolved_at",
        "text",
        "threads",
        "timer",
        "used_at",
        "waiter",
    )

    def __init__(self, text: str, now: float) -> None:
        self.text = text
        self.addresses: tuple[tuple[int, str], ...] = ()
        self.resolved_at = now  # of `addresses`; before there are any, when the name was first wanted
        self.error = ""  # of the last query; "" while it is good, or still the first one
        self.failures = 0  # in a row
        self.due = now
        self.used_at = now
        self.is_asking = False  # a job is out, even if it is no longer waited for
        self.asked_at = now
        self.threads = 0  # jobs that are out, abandoned ones too
        self.generation = 0  # of the last job; the answer of an abandoned one is dropped
        self.waiter: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Resolver:
    """The addresses of every name that was ever wanted, kept fresh until ``close()``.

    Args:
        loop: the loop whose timers are used; None: the one running at the first query.
        connect_to: mappings as of ``parse_connect_to``; the first that matches is used. They change
            only what is dialled: SNI and Host stay the node's.
        refresh_s: between queries of one name.
        max_stale_s: how long the last good addresses are used while queries fail.
        timeout_s: how long a query may keep a caller waiting. A later answer is still taken.
        public_hosts: names whose private, loopback or link-local addresses are refused.
        query: asks for one name, blocking. start: runs such a job in the background.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        connect_to: Sequence[tuple[str, int, str, int]] = (),
        refresh_s: float = 30.0,
        max_stale_s: float = 3600.0,
        timeout_s: float = 2.0,
        public_hosts: frozenset[str] = PUBLIC_HOSTS,
        query: Query = system_query,
        start: Start = start_daemon_thread,
    ) -> None:
        self._loop = loop
        self._connect_to = tuple(ConnectTo(_plain(m[0]), m[1], m[2], m[3]) for m in connect_to)
        self._refresh_s = refresh_s
        self._max_stale_s = max_stale_s
        self._timeout_s = timeout_s
        self._public_hosts = public_hosts
        self._query = query
        self._start = start
        self._names: dict[str, _Name] = {}
        # -> (until when, how manieth win of all)
        self._winners: dict[Address, tuple[float, int]] = {}
        self._wins = 0
        self._threads = 0
        self._queue: deque[_Name] = deque()  # wanted while all threads were busy
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        failing = sum(1 for name in self._names.values() if name.failures)
        closed = " closed" if self._closed else ""
        return f"<Resolver names={len(self._names)} failing={failing} threads={self._threads}{closed}>"

    # --- Asking ---------------------------------------------------------------------------------

    def lookup(self, host: str, port: int) -> tuple[Address, ...] | None:
        """Return where to dial, best first, from memory; None if that is not known (any more)."""
        host, port = self._where(host, port)
        found = literal(host)
        if found is not None:
            return (Address(*found, port),)
        name = self._names.get(_plain(host))
        if name is None or not name.addresses:
            return None
        now = self._now()
        name.used_at = now
        if name.failures and now - name.resolved_at > self._max_stale_s:
            return None
        return self._ranked(tuple(Address(family, text, port) for family, text in name.addresses), now)

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Return where to dial, waiting for the name's first query, which all callers share.

        A name that failed is asked again by the timer only; until then this fails at once.

        Raises:
            ResolveFailed: no address, or none that such a host may have.
        """
        found = self.lookup(host, port)
        if found is not None:
            return found
        name = self._want(host, port)
        if name is not None and name.waiter is not None and not name.error:
            await asyncio.shield(name.waiter)  # a caller that leaves takes nothing from the others
        found = self.lookup(host, port)
        if found is not None:
            return found
        said = "the gateway is shutting down" if name is None else name.error or "no usable address"
        raise ResolveFailed(f"The provider's name has no address ({said})")

    def watch(self, host: str, port: int) -> None:
        """Begin to resolve a name that will be wanted, without waiting. Needs a running loop."""
        if self.lookup(host, port) is None:
            self._want(host, port)

    def is_current(self, host: str, port: int, address: Address) -> bool:
        """False if a good answer has since replaced this address: its idle connections may go."""
        found = self.lookup(host, port)
        return found is None or address in found

    def stale_s(self) -> float:
        """Return for how long the name that is worst off has had no good answer, in seconds."""
        failing = [name.resolved_at for name in self._names.values() if name.failures]
        return max(0.0, self._now() - min(failing)) if failing else 0.0

    def retain(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Stop refreshing every name but those of these (host, port) pairs."""
        keep = {_plain(self._where(host, port)[0]) for host, port in wanted}
        for text in [text for text in self._names if text not in keep]:
            self._drop(self._names[text])
        self._plan()

    def close(self) -> None:
        """Stop all timers; waiting callers fail. Threads still asking are left to themselves."""
        self._closed = True
        for name in list(self._names.values()):
            self._drop(name)
        self._queue.clear()
        self._winners.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- Order ----------------------------------------------------------------------------------

    def remember(self, address: Address) -> None:
        """Note that a connection to this address was made: it is tried first from now on."""
        if self._closed:
            return
        self._winners.pop(address, None)
        self._wins += 1
        self._winners[address] = (self._now() + WINNER_S, self._wins)
        if len(self._winners) > MAX_WINNERS:
            del self._winners[next(iter(self._winners))]

    def forget(self, address: Address) -> None:
        """Note that this address failed: it has no preference any more."""
        self._winners.pop(address, None)

    def _ranked(self, addresses: tuple[Address, ...], now: float) -> tuple[Address, ...]:
        if len(addresses) < 2 or not self._winners:
            return addresses
        latest = 0
        winner: Address | None = None
        for address in addresses:
            until, win = self._winners.get(address, (0.0, 0))
            if win > latest and now < until:
                latest, winner = win, address
        if winner is None:
            return addresses
        return (winner, *(address for address in addresses if address != winner))

    # --- Names ----------------------------------------------------------------------------------

    def _where(self, host: str, port: int) -> tuple[str, int]:
        """Apply ``connect_to``."""
        if self._connect_to:
            plain = _plain(host)
            for rule in self._connect_to:
                if rule.host in ("", plain) and rule.port in (0, port):
                    return rule.to_host or host, rule.to_port or port
        return host, port

    def _want(self, host: str, port: int) -> _Name | None:
        """Return the record of a name, asking for it if it is new; None after ``close()``."""
        if self._closed:
            return None
        host, _ = self._where(host, port)
        plain = _plain(host)
        name = self._names.get(plain)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._drop(min(self._names.values(), key=lambda known: known.used_at))
            # With its dot, if it was written absolute: the search list is not for it then.
            name = self._names[plain] = _Name(_bare(host), self._now())
            self._ask(name)
            self._plan()
        return name

    def _drop(self, name: _Name) -> None:
        self._names.pop(_plain(name.text), None)
        name.generation += 1
        name.error = name.error or "no longer wanted"
        self._wake(name)

    # --- Queries --------------------------------------------------------------------------------

    def _ask(self, name: _Name) -> None:
        """Start a query, or queue it; callers may wait on ``name.waiter`` from now on."""
        loop = self._running_loop()
        if name.waiter is None:
            name.waiter = loop.create_future()
            name.timer = loop.call_later(self._timeout_s, self._on_timeout, name)
        if self._threads >= MAX_THREADS:
            if name not in self._queue:
                self._queue.append(name)
            return
        if name.threads >= MAX_THREADS_OF_NAME:
            return  # times out
        name.generation += 1
        name.is_asking = True
        name.asked_at = self._now()
        name.threads += 1
        self._threads += 1
        query, generation = self._query, name.generation

        def job() -> None:
            found: list[tuple[int, str]] = []
            error: Exception | None = None
            try:
                found = list(query(name.text))
            except Exception as caught:  # UnicodeError and ValueError come from odd names
                error = caught
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to tell
                loop.call_soon_threadsafe(self._on_answer, name, generation, found, error)

        try:
            self._start(job)
        except RuntimeError as error:  # this process may have no more threads
            loop.call_soon(self._on_answer, name, generation, [], error)

    def _on_answer(
        self, name: _Name, generation: int, found: list[tuple[int, str]], error: Exception | None
    ) -> None:
        name.threads -= 1
        self._threads -= 1
        if name.generation == generation and not self._closed:
            name.is_asking = False
            if error is not None:
                self._on_failure(name, _said(error))
            elif not found:
                self._on_failure(name, "name has no address")
            elif _plain(name.text) not in self._public_hosts:
                self._on_success(name, found)
            elif public := [place for place in found if is_public(place[1])]:
                self._on_success(name, public)
            else:
                self._on_failure(name, "a public provider's name led to a private address")
        while self._queue and self._threads < MAX_THREADS and not self._closed:
            waiting = self._queue.popleft()
            if self._names.get(_plain(waiting.text)) is waiting and not waiting.is_asking:
                self._ask(waiting)
        self._plan()

    def _on_timeout(self, name: _Name) -> None:
        self._fail(name, "timeout")
        self._plan()

    def _on_success(self, name: _Name, found: list[tuple[int, str]]) -> None:
        now = self._now()
        name.addresses = tuple(interleave(found)[:MAX_ADDRESSES])
        name.resolved_at = now
        name.failures = 0
        name.error = ""
        name.due = now + self._refresh_s
        self._wake(name)

    def _on_failure(self, name: _Name, said: str) -> None:
        if name.waiter is None:  # counted already, when it took too long
            name.error = said
        else:
            self._fail(name, said)

    def _fail(self, name: _Name, said: str) -> None:
        name.failures += 1
        name.error = said
        longest = self._refresh_s if name.addresses else min(RETRY_WITHOUT_S, self._refresh_s)
        name.due = self._now() + min(RETRY_FIRST_S * 2 ** min(name.failures - 1, 16), longest)
        self._wake(name)

    def _wake(self, name: _Name) -> None:
        if name.timer is not None:
            name.timer.cancel()
            name.timer = None
        if name.waiter is not None:
            if not name.waiter.done():
                name.waiter.set_result(None)
            name.waiter = None

    # --- Refreshing -----------------------------------------------------------------------------

    def _plan(self) -> None:
        """Set the one timer to the name that is due first and not waited for already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle = [name.due for name in self._names.values() if name.waiter is None]
        if idle and not self._closed:
            self._timer = self._running_loop().call_later(max(0.0, min(idle) - self._now()), self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        now = self._now()
        for name in list(self._names.values()):
            if name.waiter is not None or now < name.due:
                continue
            if name.is_asking and now - name.asked_at < ABANDON_S:
                self._fail(name, name.error or "timeout")  # still hanging: no second one beside it
            else:
                self._ask(name)
        self._plan()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _now(self) -> float:
        return self._running_loop().time()


def _said(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return FAILURES.get(error.errno, "resolver error")
    return "not a valid host name" if isinstance(error, ValueError) else "resolver error"
