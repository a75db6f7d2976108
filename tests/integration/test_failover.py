"""The promise: while one provider can answer, the caller gets its answer.

Every way in which the primary can break is gone through under load; every answer must echo the
id of its own request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from rig import CONFIG, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, brief, running, wait_until, with_deadlines
from worker_rig import WorkersRig, running_in_front

# (name, fault or None, parameters)
FAULTS: list[tuple[str, FaultKind, dict[str, Any]]] = [
    ("refuse", FaultKind.REFUSE, {}),
    ("bad certificate", FaultKind.BAD_CERTIFICATE, {}),
    ("handshake hang", FaultKind.HANDSHAKE_HANG, {}),
    ("hang before head", FaultKind.HANG_BEFORE_HEAD, {}),
    ("500", FaultKind.STATUS, {"status": 500}),
    ("503", FaultKind.STATUS, {"status": 503}),
    ("429 with Retry-After", FaultKind.STATUS, {"status": 429, "headers": (("retry-after", "2"),)}),
    ("429 without", FaultKind.STATUS, {"status": 429}),
    ("401", FaultKind.STATUS, {"status": 401}),
    ("402", FaultKind.STATUS, {"status": 402}),
    ("reset before head", FaultKind.RESET_BEFORE_HEAD, {}),
    ("reset after head", FaultKind.RESET_AFTER_HEAD, {}),
    ("reset inside an answer", FaultKind.RESET_INSIDE, {"stream": False}),
    ("error event first", FaultKind.ERROR_EVENT, {}),
]
AT_ONCE = 32
HANGING = brief(CONFIG)  # a caller waits for a provider that hangs until its deadline

AnyRig = Rig | WorkersRig
Launch = Callable[..., AbstractContextManager[AnyRig]]


@pytest.fixture(params=["one process", "two workers"])
def launch(request: pytest.FixtureRequest, tmp_path: Path, ca_dir: Path) -> Launch:
    """Starts a gateway and its providers: ``launch(config, article=...)``."""
    if request.param == "one process":
        return partial(running, ca_dir)
    return partial(running_in_front, tmp_path, ca_dir)


@pytest.fixture
def rig(launch: Launch) -> Iterator[AnyRig]:
    with launch(CONFIG) as started:
        yield started


class Caller:
    """Sends requests with ids and checks that each answer is the one of its own request."""

    def __init__(self, rig: AnyRig) -> None:
        self.client = AsyncOpenAI(
            base_url=rig.base_url,
            api_key="sk-of-the-caller",
            max_retries=0,
            timeout=100,
            http_client=httpx.AsyncClient(limits=httpx.Limits(max_connections=AT_ONCE), timeout=60),
        )
        self.ids = count()
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self.answered = 0
        self.room = asyncio.Semaphore(AT_ONCE)

    async def one(self) -> None:
        number = next(self.ids)
        mark = f"request-{number:06d}"
        messages: Any = [{"role": "user", "content": f"please echo {mark}"}]
        async with self.room:
            try:
                if number % 2:
                    stream = await self.client.chat.completions.create(
                        model="gpt-4o", messages=messages, stream=True
                    )
                    text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
                else:
                    answer = await self.client.chat.completions.create(model="gpt-4o", messages=messages)
                    text = answer.choices[0].message.content or ""
            except Exception as error:
                self.errors.append(f"{mark}: {error!r}")
                return
        self.answered += 1
        if mark not in text or text.count("request-") != 1:
            self.wrong.append(f"{mark}: {text!r}")

    async def many(self, number: int) -> None:
        await asyncio.gather(*(self.one() for _ in range(number)))


def wait_for_recovery(rig: AnyRig) -> None:
    """Ask until the primary answers again."""

    def is_back() -> bool:
        answer = httpx.post(
            f"{rig.base_url}/chat/completions", json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.headers["x-fastgw-upstream"] == OPENAI

    wait_until(is_back, "the primary answers again")


@pytest.mark.timeout(600)  # a hang guard: alone on two cores it takes half a minute
def test_two_thousand_requests_see_none_of_the_faults(launch: Launch) -> None:
    with launch(HANGING) as rig:

        async def storm() -> Caller:
            caller = Caller(rig)
            for name, kind, parameters in FAULTS:
                await asyncio.to_thread(rig.fault, rig.openai, kind, **parameters)
                await caller.many(110)
                assert not caller.errors, (name, caller.errors[:3])
                await asyncio.to_thread(rig.fault, rig.openai, None)
                await caller.many(35)
            await caller.client.close()
            return caller

        caller = asyncio.run(storm())
        assert caller.errors == []
        assert caller.wrong == []
        assert caller.answered == len(FAULTS) * 145 >= 2000
        counts = rig.counts()
        assert counts["exchanges"] == 0
        assert counts["held_bytes"] == 0


@pytest.mark.parametrize(("name", "kind", "parameters"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_traffic_returns_to_the_primary_after_the_fault(
    launch: Launch, name: str, kind: FaultKind, parameters: dict[str, Any]
) -> None:
    with launch(HANGING) as rig:

        async def suffer() -> None:
            caller = Caller(rig)
            await caller.many(12)
            await asyncio.to_thread(rig.fault, rig.openai, kind, **parameters)
            await caller.many(24)
            await caller.client.close()
            assert caller.errors == caller.wrong == []

        asyncio.run(suffer())
        rig.fault(rig.openai, None)
        wait_for_recovery(rig)  # the goal is 5 s, and the Retry-After of a 429


@pytest.mark.parametrize(
    ("kind", "parameters", "statuses"),
    [
        (FaultKind.REFUSE, {}, {502, 503}),
        (FaultKind.BAD_CERTIFICATE, {}, {502, 503}),
        (FaultKind.HANDSHAKE_HANG, {}, {503, 504}),
        (FaultKind.HANG_BEFORE_HEAD, {}, {503, 504}),
        (FaultKind.STATUS, {"status": 500}, {500, 503}),
        (FaultKind.STATUS, {"status": 503}, {503}),
        (FaultKind.STATUS, {"status": 401}, {502, 503}),
        (FaultKind.STATUS, {"status": 429, "headers": (("retry-after", "7"),)}, {429, 503}),
        (FaultKind.RESET_BEFORE_HEAD, {}, {502, 503}),
        (FaultKind.RESET_AFTER_HEAD, {}, {502, 503}),
        (FaultKind.ERROR_EVENT, {}, {502, 503}),
    ],
    ids=lambda value: str(getattr(value, "value", value)),
)
def test_both_providers_broken_is_a_clear_error_at_once(
    launch: Launch, kind: FaultKind, parameters: dict[str, Any], statuses: set[int]
) -> None:
    hangs = kind in (FaultKind.HANDSHAKE_HANG, FaultKind.HANG_BEFORE_HEAD)
    with launch(brief(CONFIG, 2) if hangs else CONFIG) as rig:
        rig.fault(rig.openai, kind, **parameters)
        rig.fault(rig.deepseek, kind, **parameters)
        for stream in (False, True):
            body = {"model": "gpt-4o", "messages": MESSAGES, "stream": stream}
            answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
            assert answer.status_code in statuses, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-should-retry"] in ("true", "false")
            error = answer.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert "127.0.0.1" not in answer.text
            assert "sk-" not in answer.text


def test_a_node_gets_only_its_own_key_and_nothing_of_the_callers(rig: AnyRig) -> None:
    headers = {
        "authorization": "Bearer sk-of-the-caller",
        "openai-organization": "org-caller",
        "openai-project": "proj-caller",
        "x-api-key": "sk-of-the-caller",
        "x-forwarded-for": "10.9.8.7, caller",
        "forwarded": "for=caller",
        "x-stainless-os": "of the caller",
        "x-anything": "of the caller",
        "cookie": "a=b; caller=1",
    }
    for fault in (None, FaultKind.RESET_BEFORE_HEAD):
        rig.fault(rig.openai, fault)
        body = {"model": "gpt-4o", "messages": MESSAGES}
        assert (
            httpx.post(f"{rig.base_url}/chat/completions", json=body, headers=headers, timeout=60).status_code
            == 200
        )
    for provider, key in ((rig.openai, "sk-sim-openai"), (rig.deepseek, "sk-sim-deepseek")):
        asked = [record for record in rig.call(lambda p=provider: list(p.requests)) if record.path != "/"]
        assert asked
        for record in asked:
            text = repr(record.headers)
            assert key in text
            assert "caller" not in text
            assert "cookie" not in text.lower()
            assert ({"sk-sim-openai", "sk-sim-deepseek"} - {key}).pop() not in text


@pytest.mark.parametrize("size", [0, 300_000])  # a large body is written in parts
def test_the_backup_gets_a_model_it_knows(rig: AnyRig, size: int) -> None:
    rig.fault(rig.openai, FaultKind.STATUS, status=500)
    body = {"stop": "u" * size, "model": "gpt-4o", "messages": MESSAGES}
    answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
    assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
    assert answer.headers["x-fastgw-adapted"] == "model, thinking"
    assert answer.json()["model"].startswith("deepseek")
    asked = rig.call(lambda: [record for record in rig.deepseek.requests if record.path != "/"])
    assert [json.loads(record.body) for record in asked] == [
        {**body, "model": "deepseek-flash", "thinking": {"type": "disabled"}}
    ]


def test_passing_the_callers_credentials_through_names_him_to_openai_alone(launch: Launch) -> None:
    config = CONFIG.replace("uris: [/v1/*]\n", "uris: [/v1/*]\n        passthrough: true\n")
    config = "\n".join(line for line in config.splitlines() if "Bearer" not in line)
    headers = {
        "authorization": "Bearer sk-sim-openai",
        "openai-organization": "org-caller",
        "openai-beta": "assistants=v2",
        "cookie": "a=caller",
        "x-forwarded-for": "10.9.8.7",
    }
    with launch(config) as rig:
        rig.call(lambda: rig.deepseek.keys.add("sk-sim-openai"))
        for fault in (None, FaultKind.RESET_BEFORE_HEAD):
            rig.fault(rig.openai, fault)
            body = {"model": "gpt-4o", "messages": MESSAGES}
            answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, headers=headers, timeout=60)
            assert answer.status_code == 200
        seen = {}
        for provider in (rig.openai, rig.deepseek):
            asked = [record for record in rig.call(lambda p=provider: list(p.requests)) if record.path != "/"]
            seen[provider.name] = {name for record in asked for name, _ in record.headers}
        assert "authorization" in seen["openai"] & seen["deepseek"]
        assert {"openai-organization", "openai-beta"} <= seen["openai"]
        assert not any(name.startswith("openai-") for name in seen["deepseek"])
        assert not {"cookie", "x-forwarded-for"} & (seen["openai"] | seen["deepseek"])


def test_a_provider_that_cannot_take_a_request_is_not_asked(rig: AnyRig) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": picture}]}
    answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, OPENAI)
    rig.fault(rig.openai, FaultKind.STATUS, status=500)
    for path, asked in (("chat/completions", body), ("embeddings", {"model": "e", "input": "x"})):
        answer = httpx.post(f"{rig.base_url}/{path}", json=asked, timeout=60)
        assert answer.status_code == 500, answer.text  # what the one that could have taken it said
    assert not rig.call(lambda: [record for record in rig.deepseek.requests if record.path != "/"])


def test_the_articles_file_runs_verbatim(launch: Launch) -> None:
    article = (Path(__file__).parents[2] / "examples" / "article.yaml").read_text()
    with launch(article, article=True) as rig:
        body = {"model": "gpt-4o", "messages": MESSAGES}
        answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
        assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, OPENAI)
        for kind in (FaultKind.REFUSE, FaultKind.STATUS):
            rig.fault(rig.openai, kind, **({"status": 500} if kind is FaultKind.STATUS else {}))
            for _ in range(6):
                answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
                assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, DEEPSEEK)
            rig.fault(rig.openai, None)
            wait_for_recovery(rig)
        assert httpx.get(f"{rig.base_url}/models", timeout=60).status_code == 404


def test_a_slow_primary_costs_its_deadline_and_no_more(launch: Launch) -> None:
    config = with_deadlines(CONFIG[: CONFIG.index("      checks:")], first_content_stream=3)
    with launch(config) as rig:
        for kind in (FaultKind.KEEPALIVE_FLOOD, FaultKind.STALL):
            rig.fault(rig.openai, kind, **({"after": 0} if kind is FaultKind.STALL else {}))
            body = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
            answer = httpx.post(f"{rig.base_url}/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200
            assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
            assert answer.text.endswith("data: [DONE]\n\n")
