"""Account checks over real TLS: a rotten backup is found before a caller needs it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import CONFIG, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, config_of, running, wait_until
from scrape import figures

from fastgw.config.model import Config

UPSTREAM = "LLM Service"
OPENAI_KEY, DEEPSEEK_KEY = "sk-sim-openai", "sk-sim-deepseek"


def checked(text: str = CONFIG, interval: float = 0.05, **fields: Any) -> Config:
    """The rig's configuration without probes, its accounts checked in a quick rhythm."""
    text = text[: text.index("      checks:")].replace("  account_checks: false\n", "")
    told = "".join(f", {name}: {value}" for name, value in fields.items())
    return config_of(f"{text}      checks: {{account: {{interval: {interval}{told}}}}}\n")


def shown(rig: Rig) -> Any:
    (upstream,) = httpx.get(rig.admin_url + "/admin/upstreams", timeout=30).json()
    return upstream


def account(rig: Rig, name: str) -> Any:
    (node,) = [node for node in shown(rig)["nodes"] if node["name"] == name]
    return node["account"]


def standing(rig: Rig, name: str) -> str:
    return str(account(rig, name)["standing"])


def paths(rig: Rig, provider: str) -> list[str]:
    records = getattr(rig, provider).requests
    return rig.call(lambda: [record.path for record in records])


def test_each_provider_is_asked_with_its_own_key_from_the_start_on(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, checked(), loop_kind=loop_kind) as rig:
        for name in (OPENAI, DEEPSEEK):
            wait_until(lambda: standing(rig, name) == "good", f"{name} is good")  # noqa: B023 (called at once)
        assert shown(rig)["backup_ready"] is True
        assert (shown(rig)["preferred"], shown(rig)["reasons"]) == (OPENAI, [])
        assert set(paths(rig, "openai")) == {"/v1/models"}
        assert set(paths(rig, "deepseek")) == {"/models", "/user/balance"}
        for provider, own, other in (
            (rig.openai, OPENAI_KEY, DEEPSEEK_KEY),
            (rig.deepseek, DEEPSEEK_KEY, OPENAI_KEY),
        ):
            for record in rig.call(lambda: list(provider.requests)):  # noqa: B023
                headers = {name.lower(): value for name, value in record.headers}
                assert headers["authorization"] == f"Bearer {own}"
                assert other not in repr(record.headers)
        assert rig.counts()["node_connections_opened"] == 0  # requests' own connections are counted there
        found = figures(rig)
        assert found["fastgw_backup_ready"] == {(UPSTREAM,): 1}
        assert found["fastgw_account_good"] == {(OPENAI, UPSTREAM): 1, (DEEPSEEK, UPSTREAM): 1}
        assert found["fastgw_account_checks_total"][OPENAI, "good", UPSTREAM] >= 1
        assert all(time > 1.7e9 for time in found["fastgw_account_check_timestamp_seconds"].values())


def test_a_backup_whose_key_was_revoked_is_out_before_it_is_needed_and_comes_back(
    ca_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fastgw.account"), running(ca_dir, checked()) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "the backup is good")
        rig.call(rig.deepseek.keys.clear)
        wait_until(lambda: not shown(rig)["backup_ready"], "the rotten backup is found")
        assert standing(rig, DEEPSEEK) == "bad_key"
        assert shown(rig)["reasons"] == [f"{DEEPSEEK}: its key is refused"]
        assert rig.nodes()[DEEPSEEK].is_dead()
        assert httpx.get(rig.admin_url + "/readyz", timeout=30).status_code == 200
        found = figures(rig)
        assert found["fastgw_backup_ready"] == {(UPSTREAM,): 0}
        assert found["fastgw_account_good"] == {(OPENAI, UPSTREAM): 1, (DEEPSEEK, UPSTREAM): 0}
        rig.call(lambda: rig.deepseek.keys.add(DEEPSEEK_KEY))
        wait_until(lambda: shown(rig)["backup_ready"], "its key works again")
        assert not rig.nodes()[DEEPSEEK].is_dead()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1 and "its key is refused" in said[0] and DEEPSEEK_KEY not in said[0]


def test_an_empty_account_is_found_without_a_request(ca_dir: Path) -> None:
    with running(ca_dir, checked()) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "the backup is good")
        rig.call(lambda: setattr(rig.deepseek.settings, "has_money", False))
        wait_until(lambda: standing(rig, DEEPSEEK) == "no_balance", "the balance is used up")
        assert rig.nodes()[DEEPSEEK].is_dead() and not shown(rig)["backup_ready"]
        rig.call(lambda: setattr(rig.deepseek.settings, "has_money", True))
        wait_until(lambda: shown(rig)["backup_ready"], "it was topped up")


def test_a_mapped_model_that_no_longer_exists_is_said_aloud_and_the_node_stays(
    ca_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = CONFIG.replace(
        "          priority: -1\n", '          priority: -1\n          models: {"*": deepseek-chat}\n'
    )
    with caplog.at_level(logging.ERROR, "fastgw.account"), running(ca_dir, checked(text)) as rig:
        wait_until(lambda: standing(rig, DEEPSEEK) == "model_missing", "the model is missed")
        assert account(rig, DEEPSEEK)["missing_models"] == ["deepseek-chat"]
        assert shown(rig)["reasons"] == [f"{DEEPSEEK}: its provider does not offer the model deepseek-chat"]
        assert not shown(rig)["backup_ready"]
        assert rig.nodes()[DEEPSEEK].is_available(0.0)
        found = figures(rig)
        assert found["fastgw_model_missing"] == {("deepseek-chat", DEEPSEEK, UPSTREAM): 1}
    assert "deepseek-chat" in caplog.text


def test_a_provider_that_does_not_answer_the_check_is_no_backup_but_not_out(ca_dir: Path) -> None:
    with running(ca_dir, checked(timeout=1)) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "the backup is good")
        rig.fault(rig.deepseek, FaultKind.HANG_BEFORE_HEAD)
        wait_until(lambda: standing(rig, DEEPSEEK) == "unreachable", "it is silent")
        assert not shown(rig)["backup_ready"]
        assert rig.nodes()[DEEPSEEK].is_available(0.0)
        rig.fault(rig.deepseek, None)
        wait_until(lambda: shown(rig)["backup_ready"], "it answers again")


def test_readiness_is_about_the_node_that_would_take_over(ca_dir: Path) -> None:
    """The backup serves because the primary's key was revoked: nobody is left behind it."""
    with running(ca_dir, checked()) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "all is well")
        rig.call(rig.openai.keys.clear)
        wait_until(lambda: shown(rig)["preferred"] == DEEPSEEK, "the primary is found out")
        assert not shown(rig)["backup_ready"]
        answer = httpx.post(
            rig.base_url + "/chat/completions", json={"model": "gpt-4o", "messages": MESSAGES}, timeout=30
        )
        assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
        assert answer.headers["x-fastgw-attempts"] == "1", "nobody pays for what a check has found"


@pytest.mark.parametrize("how", ["enabled", "process", "apisix", "no key"])
def test_accounts_are_not_checked_where_that_is_switched_off(ca_dir: Path, how: str) -> None:
    text = CONFIG[: CONFIG.index("      checks:")]
    if how != "process":
        text = text.replace("  account_checks: false\n", "")
    if how == "enabled":
        text += "      checks: {account: {enabled: false}}\n"
    elif how == "apisix":
        text = "profile: apisix\n" + text
    elif how == "no key":
        text = "".join(line for line in text.splitlines(True) if "auth:" not in line)
    with running(ca_dir, config_of(text)) as rig:
        assert shown(rig)["backup_ready"] is True, "health is all there is"
        assert account(rig, DEEPSEEK) is None
        assert not any(built.checker for built in rig.gateway.generation.upstreams.values())  # type: ignore[union-attr]
        assert "fastgw_account_good" not in figures(rig)


def test_a_reload_ends_the_old_checks_and_begins_the_new_ones(ca_dir: Path) -> None:
    configs = [checked(), config_of(CONFIG[: CONFIG.index("      checks:")]), checked()]
    with running(ca_dir, configs[0], reload_config=lambda: configs.pop(1)) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "they are checked")
        assert rig.call(rig.gateway.reload)
        wait_until(lambda: account(rig, DEEPSEEK) is None, "they are no longer checked")
        wait_until(lambda: rig.counts()["tasks"] <= 4, "the tasks have ended")
        assert rig.call(rig.gateway.reload)
        wait_until(lambda: standing(rig, DEEPSEEK) == "good", "they are checked again")


def test_one_worker_checks_and_all_know(ca_dir: Path) -> None:
    """What a scrape shows comes from the shared memory, not from the process that answers."""
    with running(ca_dir, checked()) as rig:
        wait_until(lambda: shown(rig)["backup_ready"], "they are checked")
        generation = rig.gateway.generation
        assert generation is not None
        samples = rig.call(rig.gateway.recorder.metrics.collect)
        names = {name for name, *_ in samples}
        assert {"fastgw_account_standing", "fastgw_account_checked_milliseconds"} <= names
        assert "fastgw_account_standing" not in httpx.get(rig.admin_url + "/metrics", timeout=30).text
