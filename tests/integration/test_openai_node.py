"""The unmodified openai SDK for Node; its base URL is the only change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rig import CONFIG, DEEPSEEK, OPENAI, FaultKind, Rig, brief, running

pytestmark = pytest.mark.node

SOURCES = Path(__file__).parents[1] / "node"
SAID = "You said: say hello"


@pytest.fixture(scope="session")
def node_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the SDK is installed: outside of the tree, anew in each session (npm has a cache of its own)."""
    directory = tmp_path_factory.mktemp("node")
    for source in SOURCES.iterdir():
        if source.is_file():
            shutil.copy(source, directory)
    command = [
        "npm",
        "install",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=110)
    if done.returncode != 0:
        pytest.skip(f"npm could not install the openai SDK: {done.stderr.strip()[-200:]}")
    return directory


def run(node_dir: Path, rig: Rig, what: str, **env: str) -> dict[str, Any]:
    variables = {**os.environ, "OPENAI_BASE_URL": rig.base_url, "OPENAI_API_KEY": "sk-of-the-caller", **env}
    done = subprocess.run(
        ["node", "sdk.mjs", what], cwd=node_dir, env=variables, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("broken", [None, FaultKind.REFUSE, FaultKind.STATUS, FaultKind.RESET_BEFORE_HEAD])
def test_node_gets_its_answer(node_dir: Path, rig: Rig, broken: FaultKind | None) -> None:
    rig.fault(rig.openai, broken)
    assert run(node_dir, rig, "plain") == {"text": SAID, "node": DEEPSEEK if broken else OPENAI}


@pytest.mark.parametrize("broken", [None, FaultKind.STATUS])
def test_node_gets_a_stream(node_dir: Path, rig: Rig, broken: FaultKind | None) -> None:
    rig.fault(rig.openai, broken)
    got = run(node_dir, rig, "stream")
    assert got["text"] == SAID
    assert got["chunks"] > 3
    assert got["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (FaultKind.RESET_INSIDE, {"after": 5}),
        (FaultKind.RESET_INSIDE, {"after": 5, "how": "clean"}),
        (FaultKind.ERROR_EVENT, {"after": 5}),
        (FaultKind.STALL, {"after": 5}),
    ],
    ids=["reset", "clean end", "error event", "stall"],
)
def test_node_never_takes_a_broken_stream_for_a_short_answer(
    node_dir: Path, ca_dir: Path, kind: FaultKind, parameters: dict[str, Any]
) -> None:
    with running(ca_dir, brief(CONFIG)) as rig:
        rig.fault(rig.openai, kind, **parameters)
        got = run(node_dir, rig, "broken")
    assert got["error"] == "APIError"
    assert got["message"]
    assert got["text"].startswith("You said")


def test_many_answers_at_once_are_each_its_own(node_dir: Path, rig: Rig) -> None:
    assert run(node_dir, rig, "many") == {"right": True}


def test_node_lists_models_embeds_and_responds(node_dir: Path, rig: Rig) -> None:
    got = run(node_dir, rig, "rest")
    assert "gpt-4o" in got["models"]
    assert got["vectors"][0] == got["vectors"][1] > 0
    assert got["said"] == SAID


def test_errors_have_the_types_the_sdk_gives_them(node_dir: Path, rig: Rig) -> None:
    assert run(node_dir, rig, "errors") == {"kinds": ["BadRequestError", "NotFoundError"]}


def test_both_broken_is_an_error_and_the_sdk_does_not_multiply_it(node_dir: Path, rig: Rig) -> None:
    for provider in (rig.openai, rig.deepseek):
        rig.fault(provider, FaultKind.STATUS, status=500, paths="api")
    got = run(node_dir, rig, "failing", MAX_RETRIES="2")
    assert got["error"] == "InternalServerError"
    assert got["status"] == 500
    assert int(got["after"]) >= 1
    counts = [provider.counters.requests for provider in (rig.openai, rig.deepseek)]
    paths = [record.path for provider in (rig.openai, rig.deepseek) for record in list(provider.requests)]
    assert len([path for path in paths if path != "/"]) == 2, counts
