"""Rows of the fault matrix from before a request is sent: names, addresses, and TLS without a certificate.

On loopback nothing is lost and no name service fails: a SYN that nobody answers goes to a listener whose
queue is full, and the name service is a function of the test.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from fault_rig import (
    BRIEF_S,
    OUT_AT_ONCE,
    SUCCEEDED,
    UNASKED,
    Health,
    blackhole,
    chat_answer,
    check_health,
    is_whole_chat,
    matrix_config,
    request_bytes,
)
from rig import DEEPSEEK, Rig, running, wait_until
from wire_ends import Client, Peer, ScriptedNode, config_for, node, refusing, serving

from fastgw.wire.resolver import Resolver

NAME = "primary.test"
RESOLVER_S = 3.0  # a name service that answers needs a thread, which a busy machine may keep waiting
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
Answer = list[str] | OSError


class NameService:
    """What the gateway's resolver asks: answers or fails, or hangs as long as ``hangs`` is set."""

    def __init__(self) -> None:
        self.answer: Answer = []
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, name: str) -> list[tuple[int, str]]:
        assert name == NAME
        answer = self.answer
        self.asked += 1
        self.goes_on.wait(30)
        if isinstance(answer, OSError):
            raise answer
        return [(int(socket.AF_INET6 if ":" in host else socket.AF_INET), host) for host in answer]

    def becomes(self, answer: Answer) -> None:
        """Answer so from now on; returns when that is known everywhere."""
        self.answer = answer
        before = self.asked
        wait_until(lambda: self.asked >= before + 2, "the name was asked again")

    def hang(self) -> None:
        """Answer nobody from now on; returns when somebody waits for it."""
        before = self.asked
        self.goes_on.clear()
        wait_until(lambda: self.asked > before, "somebody asks in vain")


def known(rig: Rig) -> Resolver:
    """The gateway's resolver, which knows the primary's address."""
    resolver = rig.gateway.resolver
    assert resolver is not None
    rig.call(lambda: resolver.watch(NAME, 1))
    wait_until(lambda: rig.call(lambda: resolver.lookup(NAME, 1)) is not None, "the name is known")
    return resolver


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    """The name service of every gateway of the test; names are asked again all the time."""
    service = NameService()
    monkeypatch.setattr(
        "fastgw.gateway.Resolver", partial(Resolver, query=service, refresh_s=0.05, timeout_s=RESOLVER_S)
    )
    yield service
    service.goes_on.set()


@pytest.fixture
def backup() -> Iterator[ScriptedNode]:
    with node(serving(chat_answer)) as healthy:
        yield healthy


def named(primary_port: int, backup: ScriptedNode, connect_s: float = 20.0) -> str:
    """A primary that has a name, and a backup."""
    deadlines = f"{{head: 20, head_stream: 20, connect: {connect_s}, total: 60}}"
    text = config_for(primary_port, backup.port, provider="openai", deadlines=deadlines)
    return text.replace("host: 127.0.0.1", f"host: {NAME}", 1)


def check(rig: Rig, stream: bool, primary_port: int, backup: ScriptedNode, health: Health) -> float:
    """Ask once. Whose answer it is follows from the primary's health; returns how long it took, seconds."""
    primary = f"{NAME}:{primary_port}"
    moves = health.outcome != "succeeded"
    begin = monotonic()
    with Client(rig.port) as client:
        got = client.ask(request_bytes(stream))
    took_s = monotonic() - begin
    assert is_whole_chat(got, stream), got.raw
    assert got["x-fastgw-upstream"] == (f"127.0.0.1:{backup.port}" if moves else primary)
    assert got["x-fastgw-attempts"] == ("2" if moves else "1")
    assert len(backup.asked) == (1 if moves else 0)
    check_health(rig, primary, health, begin)
    check_health(rig, f"127.0.0.1:{backup.port}", SUCCEEDED if moves else UNASKED, begin)
    assert rig.counts()["uncertain_replays"] == 0
    return took_s


@both_ways
@pytest.mark.parametrize("first", ["127.0.0.2", "::1"])
def test_u01_u06_the_next_address_of_the_same_name_comes_first(
    ca_dir: Path, names: NameService, backup: ScriptedNode, first: str, stream: bool
) -> None:
    """The first address refuses, or (where there is no IPv6 at all) cannot be reached."""
    with node(serving(chat_answer)) as primary:
        names.answer = [first, "127.0.0.1"]
        with running(ca_dir, named(primary.port, backup)) as rig:
            check(rig, stream, primary.port, backup, SUCCEEDED)
            # The winner is remembered, and tried first.
            lookup = rig.gateway.resolver.lookup  # type: ignore[union-attr]
            assert [address.host for address in rig.call(lambda: lookup(NAME, primary.port)) or ()] == [
                "127.0.0.1",
                first,
            ]


@both_ways
def test_u01_all_addresses_of_a_name_refuse(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    names.answer = ["127.0.0.2", "127.0.0.1"]
    with refusing() as port, running(ca_dir, named(port, backup)) as rig:
        check(rig, stream, port, backup, OUT_AT_ONCE)


@both_ways
def test_u02_a_syn_that_nobody_answers(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    names.answer = ["127.0.0.1"]
    with blackhole() as port, running(ca_dir, named(port, backup, connect_s=BRIEF_S)) as rig:
        check(rig, stream, port, backup, OUT_AT_ONCE)
        assert rig.nodes()[f"{NAME}:{port}"].counters["timeout_failure"] == 1


@both_ways
def test_u03_a_name_that_does_not_exist(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    names.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with running(ca_dir, named(443, backup)) as rig:
        check(rig, stream, 443, backup, OUT_AT_ONCE)


@both_ways
@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL])
def test_u03_u04_the_last_good_addresses_go_on_serving(
    ca_dir: Path, names: NameService, backup: ScriptedNode, code: int, stream: bool
) -> None:
    with node(serving(chat_answer)) as primary:
        names.answer = ["127.0.0.1"]
        with running(ca_dir, named(primary.port, backup)) as rig:
            resolver = known(rig)
            names.becomes(socket.gaierror(code, "no"))
            wait_until(lambda: rig.call(resolver.stale_s) > 0, "the failure was noticed")
            check(rig, stream, primary.port, backup, SUCCEEDED)


@both_ways
def test_u04_a_name_service_that_hangs_keeps_nobody_waiting(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    with node(serving(chat_answer)) as primary:
        names.answer = ["127.0.0.1"]
        with running(ca_dir, named(primary.port, backup)) as rig:
            known(rig)
            names.hang()
            check(rig, stream, primary.port, backup, SUCCEEDED)


@both_ways
def test_u04_a_name_that_was_never_known_costs_the_resolvers_limit(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    names.goes_on.clear()
    with running(ca_dir, named(443, backup)) as rig:
        took_s = check(rig, stream, 443, backup, OUT_AT_ONCE)
        assert took_s < 20  # the deadline, which is much later than the resolver's limit


@both_ways
def test_u05_new_connections_follow_a_changed_address(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    """Idle connections to the old address are closed; one that is busy ends its answer first."""
    may_end = threading.Event()

    def held(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.target.endswith("?held"):
                may_end.wait(30)
            peer.send(chat_answer(request))

    with node(held) as old, node(serving(chat_answer), address=("127.0.0.2", old.port)) as new:
        names.answer = ["127.0.0.1"]
        with running(ca_dir, named(old.port, backup)) as rig, Client(rig.port) as waiting:
            waiting.send(request_bytes(stream, path="/v1/chat/completions?held"))
            wait_until(lambda: len(old.asked) == 1, "the node has the request")
            with Client(rig.port) as client:
                assert is_whole_chat(client.ask(request_bytes(stream)), stream)
            wait_until(lambda: rig.counts()["node_connections"]["idle"] == 1, "its connection is idle")
            names.answer = ["127.0.0.2"]
            wait_until(lambda: rig.counts()["node_connections"]["idle"] == 0, "the idle one is closed")
            with Client(rig.port) as client:
                assert is_whole_chat(client.ask(request_bytes(stream)), stream)
            assert (len(old.asked), len(new.asked)) == (2, 1)
            may_end.set()
            assert is_whole_chat(waiting.answer(), stream)
            with Client(rig.port) as client:
                assert is_whole_chat(client.ask(request_bytes(stream)), stream)
            assert (len(old.asked), len(new.asked), len(backup.asked)) == (2, 2, 0)
            assert not any(rig.nodes()[f"{NAME}:{old.port}"].counters.values())


@both_ways
def test_u06_an_address_without_an_answer_costs_a_quarter_of_a_second(
    ca_dir: Path, names: NameService, backup: ScriptedNode, stream: bool
) -> None:
    with node(serving(chat_answer)) as primary, blackhole(("127.0.0.2", primary.port)):
        names.answer = ["127.0.0.2", "127.0.0.1"]
        with running(ca_dir, named(primary.port, backup)) as rig:
            assert check(rig, stream, primary.port, backup, SUCCEEDED) >= 0.24


@both_ways
@pytest.mark.parametrize("alert", [40, 70, 112], ids=["handshake_failure", "version", "unrecognised_name"])
def test_u09_an_alert_in_the_handshake(ca_dir: Path, alert: int, stream: bool) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1 << 16)
        peer.send(bytes([21, 3, 3, 0, 2, 2, alert]))

    with node(script) as primary:
        config = matrix_config().replace("api.openai.com", NAME)
        place = f'connect_to: ["{NAME}:443:127.0.0.1:{primary.port}"]'
        with running(ca_dir, config.replace("fastgw:\n", f"fastgw:\n  {place}\n")) as rig:
            begin = monotonic()
            with Client(rig.port) as client:
                got = client.ask(request_bytes(stream))
            assert (got["x-fastgw-upstream"], got["x-fastgw-attempts"]) == (DEEPSEEK, "2")
            assert is_whole_chat(got, stream)
            check_health(rig, f"{NAME}:443", OUT_AT_ONCE, begin)
            assert primary.accepted == 1
