"""What the supervisor decides, with the clock as a number; its messages; and a crowd of signals."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import crowd_of_signals
import pytest
from python_process import python_process

from fastgw.supervisor import Backoff, Channel, HangWatch, Message, ending, payload_file

# --- How long a place stays empty -------------------------------------------------------------


def test_who_has_served_is_replaced_at_once_however_often() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(served) for served in (1.0, 1.0, 50.0)] == [0.0, 0.0, 0.0]


def test_quick_deaths_wait_longer_each_time_up_to_a_limit() -> None:
    backoff = Backoff(first_s=0.1, max_s=0.5)
    assert [backoff.delay_s(0.01) for _ in range(6)] == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_a_second_of_service_forgives_the_deaths_before() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.delay_s(0.0)
    assert backoff.delay_s(1.0) == 0.0
    assert backoff.delay_s(0.5) == 0.1


# --- Who hangs --------------------------------------------------------------------------------


def looking(watch: HangWatch, until: float) -> None:
    """Look in time, again and again."""
    while watch.due <= until:
        watch.look(watch.due)


def test_silence_up_to_the_limit_is_none_of_our_business() -> None:
    watch = HangWatch(10.0, 100.0)
    looking(watch, 110.0)
    assert watch.silence_s(100.0) == 10.0
    assert not watch.is_hung(100.0)


def test_longer_silence_is_hanging_and_one_beat_ends_it() -> None:
    watch = HangWatch(10.0, 100.0)
    looking(watch, 112.5)
    assert watch.is_hung(100.0)
    assert not watch.is_hung(102.5)


def test_hanging_is_seen_within_a_quarter_of_the_limit() -> None:
    watch = HangWatch(8.0, 0.0)
    looking(watch, 10.0)
    assert watch.is_hung(1.9)


def test_a_watch_that_itself_stood_still_judges_nobody_by_what_was_before() -> None:
    watch = HangWatch(10.0, 100.0)
    looking(watch, 105.0)
    watch.look(500.0)  # the machine slept, or everything was stopped
    assert watch.silence_s(104.0) == 0.0
    looking(watch, 510.0)
    assert not watch.is_hung(104.0)
    looking(watch, 512.5)
    assert watch.is_hung(104.0)
    assert not watch.is_hung(511.0)


# --- Messages ---------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_arrive_one_by_one_in_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send("drain")
    ours.send("stop")
    assert [theirs.receive(), theirs.receive()] == [Message("drain"), Message("stop")]
    with pytest.raises(BlockingIOError):
        theirs.receive()


def test_a_payload_may_be_larger_than_any_socket_buffer(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    payload = os.urandom(8 * 1024 * 1024)
    ours.send("configuration", payload)
    theirs.send("ready")
    assert theirs.receive() == Message("configuration", payload)
    assert ours.receive() == Message("ready")


def test_the_end_of_the_other_side_is_seen_after_what_it_said(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send("ready")
    theirs.close()
    assert ours.receive() == Message("ready")
    assert ours.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        ours.send("drain")


@pytest.fixture
def exhaust() -> Iterator[Callable[[], None]]:
    """Leaves no descriptor, as long as none is closed, until the test has ended."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave_none() -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))

    yield leave_none
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_payload_arrives_also_where_no_descriptor_is_left(
    ends: tuple[Channel, Channel], exhaust: Callable[[], None]
) -> None:
    ours, theirs = ends
    for payload in (b"one", b"two"):
        ours.send("configuration", payload)
    exhaust()
    assert theirs.receive() == Message("configuration", b"one")
    assert theirs.receive() == Message("configuration", b"two")


def test_a_payload_without_a_descriptor_is_an_error_and_the_next_word_is_heard(
    ends: tuple[Channel, Channel], exhaust: Callable[[], None]
) -> None:
    ours, theirs = ends
    ours.send("configuration", b"one")
    ours.send("drain")
    theirs._let_spare_go()
    exhaust()  # somebody else has taken it
    with pytest.raises(OSError, match="Too many open files"):
        theirs.receive()
    assert theirs.receive() == Message("drain")


def test_many_may_read_one_payload_at_a_time(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    with payload_file(b"for both") as file:
        ours.send_with("configuration", file)
        ours.send_with("configuration", file)
        assert theirs.receive() == theirs.receive() == Message("configuration", b"for both")


def test_who_reads_nothing_blocks_nobody(ends: tuple[Channel, Channel]) -> None:
    ours, _ = ends

    def send_without_end() -> None:
        while True:
            ours.send("reopen")

    with pytest.raises(BlockingIOError):
        send_without_end()


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended with 0"), (78 << 8, "ended with 78"), (int(signal.SIGKILL), "was killed by SIGKILL")],
)
def test_an_ending_is_said_in_words(status: int, words: str) -> None:
    assert ending(status) == words


# --- Signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_ended_at_once", "reloads"), [(True, 1), (False, 2)])
def test_in_a_crowd_of_signals_none_is_lost_and_a_reload_is_one(is_ended_at_once: bool, reloads: int) -> None:
    program = str(Path(crowd_of_signals.__file__))
    with python_process(program, options={"is_ended_at_once": is_ended_at_once}) as (_, found):
        assert found == {"reloads": reloads, "endings": 1, "code": 0}
