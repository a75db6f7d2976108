"""The deliberate breakages, each a patch beside this file, and the tests that must find them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One breakage.

    Attributes:
        says: what is wrong then, in a sentence.
        tests: each of these must fail then, as pytest names them.
        files: what the patch changes.
    """

    name: str
    path: Path
    says: str
    tests: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def needs_build(self) -> bool:
        """Is it in code that has no interpreted form?"""
        return any(not name.endswith(".py") for name in self.files)


def read(path: Path) -> Mutant:
    """A patch: a sentence, lines ``Caught-by: TEST``, and the diff."""
    text = path.read_text()
    return Mutant(
        path.stem,
        path,
        text.partition("\n")[0],
        tuple(re.findall(r"^Caught-by: (.+)$", text, flags=re.MULTILINE)),
        tuple(re.findall(r"^--- a/(.+)$", text, flags=re.MULTILINE)),
    )


def all_mutants() -> list[Mutant]:
    return [read(path) for path in sorted(HERE.glob("*.patch"))]
