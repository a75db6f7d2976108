"""The resolver on a loop whose time is made up: timers fire as soon as nothing else is to do."""

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from fastgw.errors import ConfigError, ResolveFailed
from fastgw.wire.resolver import (
    ABANDON_S,
    MAX_ADDRESSES,
    MAX_THREADS,
    MAX_THREADS_OF_NAME,
    WINNER_S,
    Address,
    ConnectTo,
    Resolver,
    interleave,
    is_public,
    literal,
    parse_connect_to,
    system_query,
)

V4 = int(socket.AF_INET)
V6 = int(socket.AF_INET6)
NOT_FOUND = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
FIRST = [(V4, "192.0.2.1")]
SECOND = [(V4, "192.0.2.2")]


class Selector(selectors.DefaultSelector):
    """Never waits: lets its loop's time jump to where it would have waited until."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "nothing would ever happen again"
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)


class Names:
    """A name service that says what it is told to, and counts."""

    def __init__(self, **answers: list[tuple[int, str]] | Exception) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []

    def __call__(self, name: str) -> Iterable[tuple[int, str]]:
        self.asked.append(name)
        answer = self.answers.get(name, NOT_FOUND)
        if isinstance(answer, Exception):
            raise answer
        return answer


def at_once(job: Callable[[], None]) -> None:
    job()


def hosts(addresses: tuple[Address, ...] | None) -> list[str]:
    return [] if addresses is None else [address.host for address in addresses]


# --- Asking -------------------------------------------------------------------------------------


def test_a_name_is_asked_once_and_then_known() -> None:
    async def main() -> None:
        names = Names(node=FIRST)
        resolver = Resolver(query=names, start=at_once)
        assert resolver.lookup("node", 443) is None
        assert await resolver.resolve("node", 443) == (Address(V4, "192.0.2.1", 443),)
        assert resolver.lookup("node", 443) == (Address(V4, "192.0.2.1", 443),)
        assert resolver.lookup("NODE.", 80) == (Address(V4, "192.0.2.1", 80),)
        assert await resolver.resolve("Node", 443) == resolver.lookup("node", 443)
        assert names.asked == ["node"]
        resolver.close()

    run(main())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", Address(V4, "192.0.2.7", 1)),
        ("2001:db8::7", Address(V6, "2001:db8::7", 1)),
        ("[2001:db8::7]", Address(V6, "2001:db8::7", 1)),
        ("fe80::1%lo", Address(V6, "fe80::1%lo", 1)),
    ],
)
def test_an_address_needs_no_asking(host: str, expected: Address) -> None:
    assert Resolver(query=Names()).lookup(host, 1) == (expected,)


def test_concurrent_callers_share_one_query_and_one_that_leaves_takes_nothing_along() -> None:
    async def main() -> None:
        names, jobs = Names(node=FIRST), list[Callable[[], None]]()
        resolver = Resolver(query=names, start=jobs.append)
        callers = [asyncio.create_task(resolver.resolve("node", 443)) for _ in range(5)]
        await asyncio.sleep(0)
        callers[0].cancel()
        await asyncio.sleep(0)
        assert len(jobs) == 1
        jobs.pop()()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [(Address(V4, "192.0.2.1", 443),)] * 4
        assert names.asked == ["node"]
        resolver.close()

    run(main())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (NOT_FOUND, "name not found"),
        (socket.gaierror(socket.EAI_AGAIN, "again"), "temporary failure"),
        (socket.gaierror(-999, "?"), "resolver error"),
        (OSError("?"), "resolver error"),
        (UnicodeError("label too long"), "not a valid host name"),
        ([], "name has no address"),
    ],
)
def test_a_name_without_address_fails_with_a_reason(
    answer: list[tuple[int, str]] | Exception, said: str
) -> None:
    async def main() -> None:
        resolver = Resolver(query=Names(node=answer), start=at_once)
        with pytest.raises(ResolveFailed) as caught:
            await resolver.resolve("node", 443)
        assert str(caught.value) == f"The provider's name has no address ({said})"
        resolver.close()

    run(main())


def test_a_name_that_failed_is_asked_again_by_the_timer_and_not_by_callers() -> None:
    async def main() -> None:
        names = Names()
        resolver = Resolver(query=names, start=at_once)
        for _ in range(10):
            with pytest.raises(ResolveFailed):
                await resolver.resolve("node", 443)
        assert names.asked == ["node"]
        await asyncio.sleep(60)
        assert len(names.asked) == 1 + 3 + 10  # at 1, 3, 7 s, and then every 5 s
        names.answers["node"] = FIRST
        await asyncio.sleep(5)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.1"]
        resolver.close()

    run(main())


def test_a_hanging_query_keeps_nobody_waiting_for_long_and_its_late_answer_counts() -> None:
    async def main() -> None:
        jobs: list[Callable[[], None]] = []
        resolver = Resolver(query=Names(node=FIRST), start=jobs.append, timeout_s=2)
        loop = asyncio.get_running_loop()
        with pytest.raises(ResolveFailed, match="timeout"):
            await resolver.resolve("node", 443)
        assert loop.time() == pytest.approx(2)
        with pytest.raises(ResolveFailed, match="timeout"):
            await resolver.resolve("node", 443)
        assert loop.time() == pytest.approx(2)
        await asyncio.sleep(10)
        assert len(jobs) == 1  # no second query beside a hanging one
        jobs[0]()
        await asyncio.sleep(0)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.1"]
        resolver.close()

    run(main())


def test_a_query_that_hangs_for_good_is_abandoned_and_its_answer_dropped() -> None:
    async def main() -> None:
        names, jobs = Names(node=FIRST), list[Callable[[], None]]()
        resolver = Resolver(query=names, start=jobs.append)
        resolver.watch("node", 443)
        await asyncio.sleep(ABANDON_S + 6)
        assert len(jobs) == 2
        jobs[0]()
        await asyncio.sleep(0)
        assert resolver.lookup("node", 443) is None
        jobs[1]()
        await asyncio.sleep(0)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.1"]
        resolver.close()

    run(main())


def test_threads_are_bounded_and_the_names_beyond_wait_their_turn() -> None:
    async def main() -> None:
        wanted = [f"node{i}" for i in range(MAX_THREADS + 3)]
        names, jobs = Names(**dict.fromkeys(wanted, FIRST)), list[Callable[[], None]]()
        resolver = Resolver(query=names, start=jobs.append)
        for name in wanted:
            resolver.watch(name, 443)
        assert len(jobs) == MAX_THREADS
        while jobs:
            jobs.pop(0)()
            await asyncio.sleep(0)
        assert sorted(names.asked) == sorted(wanted)
        assert all(resolver.lookup(name, 443) for name in wanted)
        assert repr(resolver) == f"<Resolver names={len(wanted)} failing=0 threads=0>"
        resolver.close()

    run(main())


def test_a_name_that_hangs_for_good_takes_no_turn_from_the_others() -> None:
    class Hangs(BaseException):
        pass

    hung: list[Callable[[], None]] = []
    heals: list[bool] = []

    def query(name: str) -> Iterable[tuple[int, str]]:
        if name == "hangs" and not heals:
            raise Hangs
        return FIRST

    def start(job: Callable[[], None]) -> None:
        try:
            job()
        except Hangs:
            hung.append(job)

    async def main() -> None:
        resolver = Resolver(query=query, start=start, max_stale_s=600)
        await resolver.resolve("node", 443)
        resolver.watch("hangs", 443)
        await asyncio.sleep(ABANDON_S * MAX_THREADS * 4)
        assert len(hung) == MAX_THREADS_OF_NAME
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.1"]
        assert resolver.lookup("hangs", 443) is None
        heals.append(True)
        for job in hung:
            job()
        await asyncio.sleep(0)
        assert hosts(resolver.lookup("hangs", 443)) == ["192.0.2.1"]
        assert "threads=0" in repr(resolver)
        resolver.close()

    run(main())


def test_a_name_no_longer_wanted_gives_its_turn_away() -> None:
    async def main() -> None:
        wanted = [f"node{i}" for i in range(MAX_THREADS)]
        names, jobs = Names(last=FIRST), list[Callable[[], None]]()
        resolver = Resolver(query=names, start=jobs.append)
        for name in (*wanted, "unwanted", "last"):
            resolver.watch(name, 443)
        resolver.retain([(name, 443) for name in (*wanted, "last")])
        jobs.pop(0)()
        await asyncio.sleep(0)
        jobs.pop()()
        await asyncio.sleep(0)
        assert hosts(resolver.lookup("last", 443)) == ["192.0.2.1"]
        resolver.close()

    run(main())


def test_a_process_out_of_threads_fails_the_query_and_not_the_gateway() -> None:
    async def main() -> None:
        def no_more(_job: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        resolver = Resolver(query=Names(node=FIRST), start=no_more)
        with pytest.raises(ResolveFailed, match="resolver error"):
            await resolver.resolve("node", 443)
        assert repr(resolver) == "<Resolver names=1 failing=1 threads=0>"
        resolver.close()

    run(main())


# --- Refreshing ---------------------------------------------------------------------------------


def test_addresses_are_refreshed_in_the_background() -> None:
    async def main() -> None:
        names = Names(node=FIRST)
        resolver = Resolver(query=names, start=at_once, refresh_s=30)
        (old,) = await resolver.resolve("node", 443)
        names.answers["node"] = SECOND
        await asyncio.sleep(29)
        assert resolver.is_current("node", 443, old)
        await asyncio.sleep(2)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.2"]
        assert not resolver.is_current("node", 443, old)
        assert names.asked == ["node", "node"]
        resolver.close()

    run(main())


def test_the_last_good_addresses_outlive_a_failing_name_service_for_a_while() -> None:
    async def main() -> None:
        names = Names(node=FIRST)
        resolver = Resolver(query=names, start=at_once, refresh_s=30, max_stale_s=600)
        await resolver.resolve("node", 443)
        assert resolver.stale_s() == 0
        names.answers["node"] = NOT_FOUND
        await asyncio.sleep(599)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.1"]
        assert resolver.stale_s() == pytest.approx(599)
        await asyncio.sleep(2)
        assert resolver.lookup("node", 443) is None
        with pytest.raises(ResolveFailed, match="name not found"):
            await resolver.resolve("node", 443)
        names.answers["node"] = SECOND
        await asyncio.sleep(31)
        assert hosts(resolver.lookup("node", 443)) == ["192.0.2.2"]
        assert resolver.stale_s() == 0
        resolver.close()

    run(main())


def test_only_wanted_names_are_refreshed() -> None:
    async def main() -> None:
        names = Names(a=FIRST, b=FIRST, dialled=FIRST)
        resolver = Resolver(query=names, start=at_once, connect_to=[("c", 0, "dialled", 0)])
        for name in "abc":
            await resolver.resolve(name, 443)
        resolver.retain([("A", 443), ("c", 443)])
        assert resolver.lookup("b", 443) is None
        names.asked.clear()
        await asyncio.sleep(31)
        assert sorted(names.asked) == ["a", "dialled"]
        resolver.close()

    run(main())


def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = Resolver(query=Names(a=FIRST, b=FIRST, c=FIRST), start=at_once)
        await resolver.resolve("a", 443)
        await asyncio.sleep(1)
        await resolver.resolve("b", 443)
        await asyncio.sleep(1)
        resolver.lookup("a", 443)
        await resolver.resolve("c", 443)
        assert resolver.lookup("b", 443) is None  # the one not used for longest
        assert hosts(resolver.lookup("a", 443)) == ["192.0.2.1"]
        resolver.close()

    monkeypatch.setattr("fastgw.wire.resolver.MAX_NAMES", 2)
    run(main())


def test_close_ends_waiting_callers_and_leaves_no_timer() -> None:
    async def main() -> None:
        jobs: list[Callable[[], None]] = []
        resolver = Resolver(query=Names(node=FIRST), start=jobs.append)
        caller = asyncio.create_task(resolver.resolve("node", 443))
        await asyncio.sleep(0)
        resolver.close()
        with pytest.raises(ResolveFailed):
            await caller
        jobs[0]()  # too late to matter
        await asyncio.sleep(0)
        with pytest.raises(ResolveFailed, match="shutting down"):
            await resolver.resolve("node", 443)
        resolver.remember(Address(V4, "192.0.2.1", 443))
        loop = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
        assert repr(resolver) == "<Resolver names=0 failing=0 threads=0 closed>"

    run(main())


def test_the_number_of_addresses_of_a_name_is_bounded_and_both_families_stay() -> None:
    async def main() -> None:
        found = [(V6, f"2001:db8::{i:x}") for i in range(1000)] + [(V4, "192.0.2.1")]
        resolver = Resolver(query=Names(node=found), start=at_once)
        kept = await resolver.resolve("node", 443)
        assert len(kept) == MAX_ADDRESSES
        assert kept[1].host == "192.0.2.1"
        resolver.close()

    run(main())


# --- Order --------------------------------------------------------------------------------------


def test_families_alternate_and_the_first_stays_first() -> None:
    found = [(V6, "a"), (V6, "b"), (V6, "c"), (V4, "d"), (V4, "e"), (V6, "a")]
    assert interleave(found) == [(V6, "a"), (V4, "d"), (V6, "b"), (V4, "e"), (V6, "c")]
    assert interleave([(V4, "d"), (V6, "a")]) == [(V4, "d"), (V6, "a")]
    assert interleave([]) == []


def test_a_winner_is_tried_first_until_it_fails_or_ten_minutes_have_passed() -> None:
    async def main() -> None:
        found = [(V4, "192.0.2.1"), (V4, "192.0.2.2"), (V4, "192.0.2.3")]
        resolver = Resolver(query=Names(node=found), start=at_once)
        one, two, three = await resolver.resolve("node", 443)
        resolver.remember(two)
        assert resolver.lookup("node", 443) == (two, one, three)
        assert resolver.lookup("node", 80) == tuple(a._replace(port=80) for a in (one, two, three))
        resolver.remember(three)
        assert resolver.lookup("node", 443) == (three, one, two)
        resolver.forget(three)
        assert resolver.lookup("node", 443) == (two, one, three)
        await asyncio.sleep(WINNER_S)
        assert resolver.lookup("node", 443) == (one, two, three)
        resolver.close()

    run(main())


def test_winners_of_other_names_are_not_searched() -> None:
    class Unsearched(dict[Address, Any]):
        def items(self) -> Any:
            raise AssertionError("every sweep would look at all of them")

        keys = values = __iter__ = __reversed__ = items

    async def main() -> None:
        resolver = Resolver(query=Names(node=[(V4, "192.0.2.1"), (V4, "192.0.2.2")]), start=at_once)
        one, two = await resolver.resolve("node", 443)
        resolver._winners = Unsearched()
        for i in range(5):
            resolver.remember(Address(V4, f"198.51.100.{i}", 443))
        assert resolver.lookup("node", 443) == (one, two)
        resolver.remember(two)
        assert resolver.lookup("node", 443) == (two, one)
        resolver.close()

    run(main())


def test_remembered_winners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = Resolver(query=Names(node=[(V4, "a"), (V4, "b"), (V4, "c")]), start=at_once)
        a, b, c = await resolver.resolve("node", 443)
        for address in (c, a, b):
            resolver.remember(address)
        resolver.forget(a)
        resolver.forget(b)
        assert resolver.lookup("node", 443) == (a, b, c)
        resolver.close()

    monkeypatch.setattr("fastgw.wire.resolver.MAX_WINNERS", 2)
    run(main())


# --- Public providers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "64:ff9b:1::7f00:1",
        "fec0::1",
        "not an address",
    ],
)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["104.18.7.192", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_outside_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["api.openai.com", "API.DeepSeek.com", "api.openai.com."])
def test_a_public_provider_never_resolves_to_an_address_inside(host: str) -> None:
    async def main() -> None:
        resolver = Resolver(query=lambda _name: [(V4, "10.0.0.1"), (V6, "::1")], start=at_once)
        with pytest.raises(ResolveFailed, match="private address"):
            await resolver.resolve(host, 443)
        resolver.close()
        mixed = Resolver(query=lambda _name: [(V4, "10.0.0.1"), (V4, "104.18.7.192")], start=at_once)
        assert hosts(await mixed.resolve(host, 443)) == ["104.18.7.192"]
        mixed.close()

    run(main())


def test_a_refresh_that_leads_a_public_provider_inside_changes_nothing() -> None:
    async def main() -> None:
        names = Names(**{"api.openai.com": [(V4, "104.18.7.192")]})
        resolver = Resolver(query=names, start=at_once)
        await resolver.resolve("api.openai.com", 443)
        names.answers["api.openai.com"] = [(V4, "127.0.0.1")]
        await asyncio.sleep(100)
        assert hosts(resolver.lookup("api.openai.com", 443)) == ["104.18.7.192"]
        assert resolver.stale_s() == pytest.approx(100)
        resolver.close()

    run(main())


def test_any_other_name_may_be_inside() -> None:
    async def main() -> None:
        resolver = Resolver(query=Names(vllm=[(V4, "10.0.0.1")]), start=at_once)
        assert hosts(await resolver.resolve("vllm", 8000)) == ["10.0.0.1"]
        resolver.close()

    run(main())


# --- connect_to ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example:443:127.0.0.1:8443", ConnectTo("a.example", 443, "127.0.0.1", 8443)),
        ("::127.0.0.1:8443", ConnectTo("", 0, "127.0.0.1", 8443)),
        (":443::8443", ConnectTo("", 443, "", 8443)),
        ("a.example:::", ConnectTo("a.example", 0, "", 0)),
        ("[2001:db8::1]:443:[::1]:8443", ConnectTo("2001:db8::1", 443, "::1", 8443)),
        ("a.example:443:[::1]:", ConnectTo("a.example", 443, "::1", 0)),
        (":::", ConnectTo("", 0, "", 0)),
    ],
)
def test_connect_to_is_written_as_curl_wants_it(text: str, expected: ConnectTo) -> None:
    assert parse_connect_to(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:1:b", "a:1:b:2:c", "a:x:b:1", "a:0:b:1", "a:65536:b:1", "a:1:b:-1", "::1:443:b:1",
     "[::1:443:b:1", "[::1]x:443:b:1", "a:²:b:1", "a:1:b:000001"],
)  # fmt: skip
def test_another_form_of_connect_to_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_connect_to(text)


def test_the_first_matching_rule_says_where_to_dial() -> None:
    rules = [
        ("api.openai.com", 443, "127.0.0.1", 8443),
        ("API.openai.com", 443, "127.0.0.1", 9),
        ("", 444, "::1", 0),
        ("", 445, "", 8445),
        ("[2001:db8::1]", 0, "127.0.0.1", 0),
    ]
    resolver = Resolver(connect_to=rules)
    assert resolver.lookup("api.OPENAI.com.", 443) == (Address(V4, "127.0.0.1", 8443),)
    assert resolver.lookup("any", 444) == (Address(V6, "::1", 444),)
    assert resolver.lookup("192.0.2.1", 445) == (Address(V4, "192.0.2.1", 8445),)
    assert resolver.lookup("2001:db8::1", 80) == (Address(V4, "127.0.0.1", 80),)
    assert resolver.lookup("192.0.2.1", 80) == (Address(V4, "192.0.2.1", 80),)


def test_connect_to_leads_a_public_provider_inside_only_by_another_name() -> None:
    async def main() -> None:
        inside = [(V4, "127.0.0.1")]
        rules = [("api.openai.com", 443, "simulator", 8443), ("api.deepseek.com", 443, "", 8443)]
        names = Names(**{"simulator": inside, "api.deepseek.com": inside})
        resolver = Resolver(query=names, start=at_once, connect_to=rules)
        assert await resolver.resolve("api.openai.com", 443) == (Address(V4, "127.0.0.1", 8443),)
        with pytest.raises(ResolveFailed, match="private address"):
            await resolver.resolve("api.deepseek.com", 443)
        resolver.close()

    run(main())


def test_a_link_local_address_keeps_its_zone() -> None:
    index = socket.if_nametoindex("lo")
    assert system_query("fe80::1%lo") == [(V6, f"fe80::1%{index}")]


def test_the_system_is_asked_for_numeric_addresses() -> None:
    assert (V4, "127.0.0.1") in system_query("127.0.0.1")
    assert literal("node") is None
