"""What README.md shows is run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rig import KEYS, FaultKind, Rig
from source_graph import ROOT

from fastgw import Node, NoNodeAvailable
from fastgw.cli import main
from fastgw.simulator.faults import PARAMETERS

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


SCRIPTS = [block for block in blocks("python") if "openai import" in block]
(EMBEDDING,) = [block for block in blocks("python") if "from fastgw" in block]


@pytest.mark.parametrize("is_broken", [False, True])
@pytest.mark.parametrize(("script", "said"), list(zip(SCRIPTS, ["Hello", "Count to three"], strict=True)))
def test_the_scripts_with_openais_sdk_work_also_while_openai_is_broken(
    rig: Rig, script: str, said: str, is_broken: bool
) -> None:
    if is_broken:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
    env = {**os.environ, "OPENAI_BASE_URL": rig.base_url, "OPENAI_API_KEY": "unused"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"You said: {said}\n"), done.stderr


def test_the_smallest_configuration_is_good(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    file = tmp_path / "gateway.yaml"
    file.write_text(block)
    result = CliRunner().invoke(main, ["check", "-c", str(file)], env=KEYS)
    assert result.exit_code == 0, result.output
    assert "good: 1 route, 1 upstream, 2 nodes (profile llm)" in result.output


def test_the_number_of_faults_is_right() -> None:
    assert "lists twenty ways to break a provider" in README
    assert len(PARAMETERS) == 20


def test_the_embedding_example_moves_to_the_next_node() -> None:
    asked: list[str] = []

    def send(node: Node, request: str) -> Any:
        asked.append(node.host)
        if request == "refused":
            raise ConnectionRefusedError
        return SimpleNamespace(status=503 if len(asked) == 1 else 200, headers={}, request=request)

    names: dict[str, Any] = {"send": send}
    exec(EMBEDDING, names)
    assert names["ask"]("hello").request == "hello"
    assert asked == ["api.openai.com", "api.deepseek.com"]
    with pytest.raises(NoNodeAvailable):
        names["ask"]("refused")
