"""What is wrong with a configuration, where, and what would be right.

Every step of loading adds to one ``Report``, so that a user sees all mistakes of a file at once.
No value that may be a key is ever part of a message: see ``shown``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fastgw.errors import ConfigError
from fastgw.redaction import Redactor, may_be_key
from fastgw.secret import Secret

Path = tuple[str | int, ...]

MAX_PROBLEMS = 200  # more than anybody reads; bounds the work a hostile file can cause
_SHOWN_CHARS = 60

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake. Line and column count from 1; ``path`` is "" for the file as a whole."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}{hint}"


class ConfigErrors(ConfigError):
    """The configuration was refused; ``problems`` has every mistake, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class TooManyProblems(Exception):
    """The report is full: what calls ``Report.error`` stops looking for more."""


class Report:
    """Collects the problems and the warnings of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}
        self._redactor = Redactor(by_shape=False)

    def hide(self, value: str) -> None:
        """Let no message show this value, wherever it turns up. Short ones are no secrets."""
        self._redactor.add([Secret(value)])

    def _problem(self, position: tuple[int, int], path: Path | str, message: str, hint: str) -> Problem:
        texts = map(self._redactor.mask, (path_text(path), message, hint))
        return Problem(self.file, *position, *texts)

    def error(self, position: tuple[int, int], path: Path | str, message: str, hint: str = "") -> None:
        """Note one mistake.

        Raises:
            TooManyProblems: there are ``MAX_PROBLEMS`` already.
        """
        if len(self._problems) >= MAX_PROBLEMS:
            self._problems[Problem(self.file, 2**31 - 1, 1, "", f"more than {MAX_PROBLEMS} problems")] = None
            raise TooManyProblems
        self._problems[self._problem(position, path, message, hint)] = None

    def warning(self, position: tuple[int, int], path: Path | str, message: str, hint: str = "") -> None:
        """Note something that loads but will bite."""
        if len(self._warnings) < MAX_PROBLEMS:
            self._warnings[self._problem(position, path, message, hint)] = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        problems = sorted(self._problems)
        if problems and problems[-1].line == 2**31 - 1:  # "more than": last, but shown where the others end
            last, shown_last = problems.pop(), problems[-1]
            problems.append(Problem(last.file, shown_last.line, shown_last.column, "~", last.message))
        return tuple(problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(map(str, sorted(self._warnings)))


def path_text(path: Path | str) -> str:
    """A path as users write it: ``services[0].upstream.nodes[1].port``. A text is one already."""
    if isinstance(path, str):
        return path
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _WORD.fullmatch(part) and len(part) <= _SHOWN_CHARS and not may_be_key(part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


def shown(value: object) -> str:
    """A value fit for a message: short, on one line, and never something that looks like a key."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        if may_be_key(value):
            return "a hidden value"
        if len(value) > _SHOWN_CHARS:
            value = value[: _SHOWN_CHARS - 1] + "…"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that ``name`` was probably meant to be."""
    from difflib import get_close_matches  # only needed when something is wrong

    folded = {item.casefold(): item for item in known}
    found = get_close_matches(name[:_SHOWN_CHARS].casefold(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else None
