"""What `simulate` prints: commands that can be pasted."""

import asyncio
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from fastgw.cli.simulate import described
from fastgw.config import parse_connect_to
from fastgw.simulator import start


@pytest.mark.parametrize("is_article", [False, True])
def test_the_printed_command_leads_to_the_printed_providers(tmp_path: Path, is_article: bool) -> None:
    async def main() -> None:
        async with await start(control_port=0, ca_dir=tmp_path / "ca", article=is_article) as simulator:
            text = described(simulator, is_article=is_article)
            command = text.partition("run a gateway in front of them:\n")[2].replace("\\\n", " ")
            words = shlex.split(command)
            assert (words[:4] == ["fastgw", "run", "-c", "examples/article.yaml"]) == is_article
            targets = [parse_connect_to(word) for before, word in pairwise(words) if before == "--connect-to"]
            assert tuple(targets) == simulator.connect_to
            assert words[-2:] == ["--ca-file", simulator.ca_file]
            assert f"http://127.0.0.1:{simulator.control_port}/providers/openai/fault" in text
            for provider in simulator.providers.values():
                assert f"https://127.0.0.1:{provider.port}" in text

    asyncio.run(main())
