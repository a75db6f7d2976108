"""Error events behind the first content: what they say of the node, or of the request, is believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchange_bench import ERROR, STREAM_BODY, STREAM_HEAD, Bench, chunk, content, dechunked

from fastgw.balancing.upstream import AttemptOutcome

Make = Callable[..., Bench]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *args, **options: Bench(monkeypatch, *args, **options)


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize(
    ("code", "outcome", "failures", "recovers_in"),
    [
        ("content_policy_violation", AttemptOutcome.SUCCEEDED, 0, 0.0),
        ("context_length_exceeded", AttemptOutcome.IGNORED, 0, 0.0),
        ("rate_limit_exceeded", AttemptOutcome.BUSY, 0, 1.0),
        ("server_is_overloaded", AttemptOutcome.BUSY, 0, 4.0),
        ("insufficient_quota", AttemptOutcome.DEAD, 0, 60.0),
        ("server_error", AttemptOutcome.FAILED, 1, 0.0),
    ],
)
def test_an_error_event_counts_as_its_status_would(
    make: Make, code: str, outcome: AttemptOutcome, failures: int, recovers_in: float, resumes: bool
) -> None:
    bench = make(1, resumes=resumes)
    event = ERROR.replace(b"server_error", code.encode())
    bench.ask(STREAM_BODY)
    bench.connect().say(STREAM_HEAD, chunk(content("He")), chunk(event))
    assert dechunked(bench.answer().rest) == (content("He") + event, False)
    (node,) = bench.nodes
    assert node.outcomes[outcome] == 1 and node.counters["http_failure"] == failures
    assert node.recovery(bench.clock.now) - bench.clock.now == pytest.approx(recovers_in)
    assert bench.finished[-1].note == "stream_error"
    bench.check_end()
