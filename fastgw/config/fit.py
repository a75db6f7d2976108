"""Does a value fit a schema? A quick yes, so that a sound file need not pay for jsonschema.

jsonschema costs 50 ms and 8 MiB before it looks at anything. It is loaded when a file does not
fit, to say why. Here only a yes counts: a keyword that is not known here makes the answer no, and
jsonschema decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Schema = dict[str, Any]

_NO_CHECK = frozenset(("description", "default", "then", "else", "additionalProperties", "items"))


class Fit:
    """Answers for one set of definitions; ``$ref`` leads into them."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._keywords: dict[str, Callable[[Any, Any, Schema], bool]] = {
            "$ref": lambda value, ref, _: self.fits(value, definitions[ref.rpartition("/")[2]]),
            "type": _type,
            "const": lambda value, wanted, _: _same(value, wanted),
            "enum": lambda value, choices, _: any(_same(value, choice) for choice in choices),
            "not": lambda value, schema, _: schema != {} and not self.fits(value, schema),
            "anyOf": lambda value, schemas, _: any(self.fits(value, schema) for schema in schemas),
            "if": self._if,
            "properties": self._properties,
            "required": lambda value, keys, _: (
                not isinstance(value, dict) or all(key in value for key in keys)
            ),
            "propertyNames": lambda value, schema, _: (
                not isinstance(value, dict) or all(self.fits(key, schema) for key in value)
            ),
            "uniqueItems": lambda value, wanted, _: not isinstance(value, list) or not repeats(value),
            "pattern": lambda value, text, _: (
                not isinstance(value, str) or bool(regex(text).fullmatch(value))
            ),
            "minimum": lambda value, limit, _: not _is_number(value) or value >= limit,
            "maximum": lambda value, limit, _: not _is_number(value) or value <= limit,
            "exclusiveMinimum": lambda value, limit, _: not _is_number(value) or value > limit,
            "minLength": lambda value, limit, _: not isinstance(value, str) or len(value) >= limit,
            "maxLength": lambda value, limit, _: not isinstance(value, str) or len(value) <= limit,
            "minItems": lambda value, limit, _: not isinstance(value, list) or len(value) >= limit,
            "maxItems": lambda value, limit, _: not isinstance(value, list) or len(value) <= limit,
            "minProperties": lambda value, limit, _: not isinstance(value, dict) or len(value) >= limit,
            "maxProperties": lambda value, limit, _: not isinstance(value, dict) or len(value) <= limit,
        }

    def fits(self, value: Any, schema: Schema) -> bool:
        """True only if value surely meets the schema."""
        for keyword, wanted in schema.items():
            if keyword in _NO_CHECK or keyword.startswith("x-"):
                continue
            check = self._keywords.get(keyword)
            if check is None or not check(value, wanted, schema):
                return False
        return self._rest(value, schema)

    def _properties(self, value: Any, properties: dict[str, Schema], _: Schema) -> bool:
        if not isinstance(value, dict):
            return True
        return all(self.fits(item, properties[key]) for key, item in value.items() if key in properties)

    def _if(self, value: Any, condition: Schema, schema: Schema) -> bool:
        branch = schema.get("then" if self.fits(value, condition) else "else")
        return branch is None or self.fits(value, branch)

    def _rest(self, value: Any, schema: Schema) -> bool:
        """``items``, and ``additionalProperties`` for what ``properties`` has not."""
        if isinstance(value, list) and "items" in schema:
            return all(self.fits(item, schema["items"]) for item in value)
        if isinstance(value, dict) and "additionalProperties" in schema:
            known, others = schema.get("properties", ()), schema["additionalProperties"]
            rest = [item for key, item in value.items() if key not in known]
            return not rest if others is False else all(self.fits(item, others) for item in rest)
        return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _type(value: Any, wanted: Any, _: Schema) -> bool:
    return any(_TYPES[kind](value) for kind in ([wanted] if isinstance(wanted, str) else wanted))


def _same(value: Any, choice: Any) -> bool:
    """Equality as JSON has it: true is not 1."""
    return bool(value == choice) and isinstance(value, bool) is isinstance(choice, bool)


def repeats(items: list[Any]) -> list[int]:
    """The places of texts and numbers that stand in the list before; in linear time."""
    seen: set[Any] = set()
    places = []
    for index, item in enumerate(items):
        if isinstance(item, (str, int, float)):
            if item in seen:
                places.append(index)
            seen.add(item)
    return places


@lru_cache(maxsize=128)
def regex(pattern: str) -> re.Pattern[str]:
    """For the whole text: an anchored pattern's "$" alone would let a line break pass at its end."""
    return re.compile(pattern.removeprefix("^").removesuffix("$"))
