"""From the model a caller asked for to the one a node has."""

import re
from collections.abc import Iterable, Mapping

# One step of a model map: a pattern (`*` any text, `?` any one character) and the name to send
# instead; None leaves the name as it is.
Pair = tuple[str, str | None]


class ModelMap:
    """Turns the model a caller asked for into the one a node has.

    An exact name beats any pattern; of the patterns the first that matches, in the order written,
    decides; a name that matches none stays. Case counts.
    """

    # Names come from callers: what is remembered of them is bounded.
    MAX_CACHED = 1024
    MAX_CACHED_LENGTH = 256

    def __init__(self, pairs: Mapping[str, str | None] | Iterable[Pair] = ()) -> None:
        self.pairs: tuple[Pair, ...] = tuple(pairs.items() if isinstance(pairs, Mapping) else pairs)
        self._exact: dict[str, str | None] = {}
        self._patterns: list[tuple[re.Pattern[str], str | None]] = []
        for pattern, target in self.pairs:
            if "*" in pattern or "?" in pattern:
                self._patterns.append((_compile(pattern), target))
            else:
                self._exact.setdefault(pattern, target)
        self._cache: dict[str, str] = {}

    def __repr__(self) -> str:
        steps = ", ".join(f"{pattern} -> {target or 'unchanged'}" for pattern, target in self.pairs)
        return f"<ModelMap {steps or 'unchanged'}>"

    def __bool__(self) -> bool:
        """Can it change any name?"""
        return any(target is not None for _, target in self.pairs)

    def map(self, name: str) -> str:
        """Return the name to send for ``name``."""
        found = self._cache.get(name)
        if found is None:
            found = self._find(name)
            if len(name) <= self.MAX_CACHED_LENGTH:
                if len(self._cache) >= self.MAX_CACHED:
                    self._cache.clear()
                self._cache[name] = found
        return found

    def _find(self, name: str) -> str:
        if name in self._exact:
            return self._exact[name] or name
        for pattern, target in self._patterns:
            if pattern.fullmatch(name):
                return target or name
        return name


def _compile(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression that takes linear time, however hostile the name is.

    What stands between two stars is taken where it comes first, for good (an atomic group): another
    place could only leave less for the rest.
    """
    first, *pieces = (_literal(piece) for piece in pattern.split("*"))
    if not pieces:
        return re.compile(first, re.DOTALL)
    *between, last = pieces
    groups = "".join(f"(?>.*?{piece})" for piece in between if piece)
    return re.compile(f"{first}{groups}.*{last}", re.DOTALL)


def _literal(piece: str) -> str:
    return "".join("." if c == "?" else re.escape(c) for c in piece)
