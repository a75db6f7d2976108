"""Values that nobody is to see, keys above all: they cannot be printed by accident.

What is kept out of sight is what is shown without being asked for: messages, reprs, tracebacks with
local variables, a debugger's panes, dumps. It is no protection from code that wants the value and
calls ``reveal``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from hmac import compare_digest
from typing import Any, Final, NoReturn, final

MASK: Final = "***"


@final
class Secret:
    """A text that is compared, hashed and handed on like any other, and shown as a mask.

    The value is behind a closure, where whoever looks through attributes does not come by it.
    """

    __slots__ = ("__reveal",)
    __reveal: Callable[[], str]

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_Secret__reveal", lambda: value)

    def reveal(self) -> str:
        """The value. For the place that needs it, and there only."""
        return self.__reveal()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        ours, theirs = (item.reveal().encode("utf-8", "surrogatepass") for item in (self, other))
        return compare_digest(ours, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self.reveal()))

    def __bool__(self) -> bool:
        return self.reveal() != ""

    # --- Shown as a mask ----------------------------------------------------------------------

    def __repr__(self) -> str:
        return "<Secret>"

    def __str__(self) -> str:
        return MASK

    def __format__(self, form: str) -> str:
        return MASK

    # --- Copied and pickled -------------------------------------------------------------------

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is not pickled, but by packed()")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled, but by packed()")


def reveal(value: str | Secret) -> str:
    """The text, secret or not."""
    return value.reveal() if isinstance(value, Secret) else value


class HiddenMapping(Mapping[str, str]):
    """A copy of a mapping of which any value may be a key, as in an environment: none is printed."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: Secret(value) for name, value in values.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name].reveal()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<HiddenMapping of {len(self)}>"


def secrets_in(*values: Any) -> set[Secret]:
    """Every secret in these: dataclasses, mappings and sequences, at any depth."""
    found: set[Secret] = set()
    seen: set[int] = set()
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, Secret):
            found.add(value)
        elif id(value) in seen:
            continue
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left += value
        elif is_dataclass(value):
            left += [getattr(value, field.name) for field in fields(value)]
        else:
            continue
        seen.add(id(value))
    return found


class _Packer(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        return (Secret, (value.reveal(),)) if isinstance(value, Secret) else NotImplemented


def packed(value: object) -> bytes:
    """A pickle for another process of ours, with the secrets in it: it is as secret as they are."""
    stream = io.BytesIO()
    _Packer(stream, pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()
