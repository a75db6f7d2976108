"""A document against the grammar: every deviation becomes a problem in words a human can use.

After ``validate`` the document holds only values of the right type and range: what was wrong is
taken out (or None in a list), so that later steps can look at all the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from fastgw.config.fit import Fit, regex, repeats
from fastgw.config.marks import Document
from fastgw.config.plugin_schemas import NOT_YET, SUPPORTED
from fastgw.config.problems import Path, Report, nearest, shown
from fastgw.config.schema import DEFINITIONS, Schema

_INTEGER = re.compile(r"[-+]?[0-9]{1,15}", re.ASCII)
_NUMBER = re.compile(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
_FIT = Fit(DEFINITIONS)
_NOUNS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


_SIZES = {
    "minItems": ("less", "entries"),
    "minProperties": ("less", "entries"),
    "minLength": ("less", "characters"),
    "maxItems": ("more", "entries"),
    "maxProperties": ("more", "entries"),
    "maxLength": ("more", "characters"),
}


def validate(document: Document, report: Report, form: str) -> None:
    """Check the document against the definition ``<form>_file``; see the module's summary."""
    _coerce({"$ref": f"#/$defs/{form}_file"}, document.data, (), document)
    if not document.broken and _FIT.fits(document.data, DEFINITIONS[f"{form}_file"]):
        return
    judge = _Judge(document, report)
    for error in _validator(form).iter_errors(document.data):
        judge.explain(error)
    for path in sorted(judge.wrong, key=len, reverse=True):
        _take_out(document.data, path)


# --- Numbers written as text --------------------------------------------------------------------


def _resolve(schema: Schema) -> Schema:
    ref = schema.get("$ref")
    return DEFINITIONS[ref.rpartition("/")[2]] if ref else schema


def _below(schema: Schema, key: str | int) -> Iterator[Schema]:
    """The schemas that an item or property of schema has to meet."""
    schema = _resolve(schema)
    for branch in (schema, schema.get("then", {}), schema.get("else", {})):
        if isinstance(key, int):
            found = branch.get("items")
        else:
            found = branch.get("properties", {}).get(key) or branch.get("additionalProperties")
        if found:
            yield _resolve(found)


def _coerce(schema: Schema, data: Any, path: Path, document: Document) -> None:
    """Turn text into the number or switch that the grammar asks for, in place.

    Numbers may be quoted, as ADC allows. A switch may only come from a variable: ``"false"`` in
    quotes is a mistake, ``${NAME}`` cannot be anything else than text.
    """
    entries = enumerate(data) if isinstance(data, list) else data.items()
    for key, value in entries:
        below = (*path, key)
        if isinstance(value, (dict, list)):
            for candidate in _below(schema, key):
                _coerce(candidate, value, below, document)
        elif isinstance(value, str):
            for candidate in _below(schema, key):
                kind = candidate.get("type")
                if kind == "integer" and _INTEGER.fullmatch(value):
                    data[key] = int(value)
                elif kind == "number" and _NUMBER.fullmatch(value):
                    number = float(value)
                    data[key] = int(number) if number.is_integer() else number
                elif kind == "boolean" and below in document.expanded and value in ("true", "false"):
                    data[key] = value == "true"


# --- Running the validator ----------------------------------------------------------------------


@lru_cache(maxsize=2)
def _validator(form: str) -> Any:
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(_: Any, text: str, instance: Any, __: Schema) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not regex(text).fullmatch(instance):
            yield ValidationError("")

    def unique(_: Any, __: bool, instance: Any, ___: Schema) -> Iterator[ValidationError]:
        for index in repeats(instance) if isinstance(instance, list) else ():
            yield ValidationError("", path=[index], instance=instance[index])

    extend: Any = validators.extend
    validator = extend(Draft202012Validator, {"pattern": pattern, "uniqueItems": unique})
    return validator({"$ref": f"#/$defs/{form}_file", "$defs": DEFINITIONS})


def _take_out(data: Any, path: Path) -> None:
    """Remove the value at path; list items become None, so that the others keep their places."""
    if not path:
        return
    for part in path[:-1]:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return
    if isinstance(data, dict):
        data.pop(path[-1], None)
    elif isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data):
        data[path[-1]] = None


# --- Words --------------------------------------------------------------------------------------


class _Judge:
    """Turns the validator's errors into problems."""

    def __init__(self, document: Document, report: Report) -> None:
        self._document = document
        self._report = report
        self.wrong: set[Path] = set(document.broken)

    def explain(self, error: Any) -> None:
        path: Path = tuple(error.absolute_path)
        if any(path[:length] in self._document.broken for length in range(len(path) + 1)):
            return  # reported before, with a better reason
        schema: Schema = error.schema if isinstance(error.schema, dict) else {}
        if error.validator == "additionalProperties":
            self._unknown_keys(path, error.instance, schema)
        elif error.validator == "required":
            self._missing_keys(path, error.instance, error.validator_value)
        elif error.validator == "propertyNames" or "propertyNames" in error.absolute_schema_path:
            self._bad_key(path, error)
        else:
            self._bad_value(path, error, schema)

    def _unknown_keys(self, path: Path, instance: dict[str, Any], schema: Schema) -> None:
        known = [
            name
            for name, below in schema.get("properties", {}).items()
            if "x-unsupported" not in (below if isinstance(below, dict) else {})
        ]
        hints = schema.get("x-hints", {})
        for key in instance:
            if key in schema.get("properties", {}):
                continue
            below = (*path, key)
            self.wrong.add(below)
            message, hint = f"unknown key {shown(key)}", hints.get(key, "")
            if path and path[-1] == "plugins":
                message, hint = _unknown_plugin(key)
            elif not hint:
                near = nearest(key, known)
                hint = f"did you mean {near}?" if near else f"known here: {', '.join(sorted(known))}"
            self._report.error(self._document.key_position(below), below, message, hint)

    def _missing_keys(self, path: Path, instance: dict[str, Any], required: list[str]) -> None:
        for key in required:
            if key not in instance:  # told once however often the validator says it: the report is a set
                self._report.error(self._document.key_position(path), path, f"{key} is missing")

    def _bad_key(self, path: Path, error: Any) -> None:
        key = error.instance
        below = (*path, key)
        self.wrong.add(below)
        expected = error.schema.get("x-expected", "another key")
        self._report.error(
            self._document.key_position(below), below, f"expected {expected} as key, got {shown(key)}"
        )

    def _bad_value(self, path: Path, error: Any, schema: Schema) -> None:
        self.wrong.add(path)
        value, hint = error.instance, ""
        if why := schema.get("x-unsupported"):
            message = why
        elif isinstance(value, str) and value in schema.get("x-later", ()):
            message, hint = f"{value} is not supported yet", f"supported: {_expected(schema)}"
        elif error.validator in ("minItems", "minProperties", "minLength") and not value:
            message = f"expected {_expected(schema)}, got nothing in it"
        elif error.validator == "uniqueItems":
            message = "is in this list already"
        elif error.validator in _SIZES:
            relation, unit = _SIZES[error.validator]
            message = f"has {relation} than {error.validator_value} {unit}"
        else:
            message = f"expected {_expected(schema)}"
            if error.validator != "anyOf":
                message += self._got(value, path, schema)
            hint = self._hint(value, path, schema)
        position = self._document.position(path)
        self._report.error(position, path, message, hint)

    def _got(self, value: Any, path: Path, schema: Schema) -> str:
        if value is None:
            return ", got nothing"
        if isinstance(value, str) and schema.get("type") == "object":
            return ", got a text"  # `key:VALUE`, or the value alone: what stands there may be a key
        if isinstance(value, (dict, list)):
            return f", got {shown(value)}"
        if self._document.is_secret(path):
            return ", got something else (not shown)"
        raw = self._document.raw.get(path)
        if raw is not None and isinstance(value, bool):
            return f", got {raw}"
        return f", got {shown(value)}"

    def _hint(self, value: Any, path: Path, schema: Schema) -> str:
        kinds = schema.get("type", ())
        takes_text = kinds == "string" or "string" in kinds
        raw = self._document.raw.get(path)
        if value is None:
            return "give it a value or remove the key"
        if takes_text and isinstance(value, bool) and raw is not None:
            return f'YAML reads {raw} as {"true" if value else "false"}: write "{raw}" in quotes'
        if takes_text and isinstance(value, (int, float)):
            return "put it in quotes"
        if self._document.is_secret(path) or not isinstance(value, str):
            return ""
        if "enum" in schema:
            near = nearest(value, [item for item in schema["enum"] if isinstance(item, str)])
            return f"did you mean {near}?" if near else ""
        if kinds == "boolean" and value.lower() in ("true", "false", "yes", "no", "on", "off"):
            return "without quotes"
        return _text_hint(value, str(path[-1]) if path else "", path)


def _text_hint(value: str, field: str, path: Path) -> str:
    """What was probably meant by a text that is not of the right form."""
    names = [part for part in path if isinstance(part, str)]
    field = names[-1] if names else field
    if field in ("host", "upstream_host"):
        if "://" in value:
            return "the host alone; scheme and port have fields of their own"
        if re.search(r":[0-9]+\Z", value):
            return "the port has a field of its own"
        if "/" in value:
            return "the host alone; paths are changed with proxy-rewrite"
    elif field in ("uris", "uri"):
        if "*" in value[:-1]:
            return "* may stand at the end only"
        if not value.startswith("/"):
            return f"/{value}" if "://" not in value else "the path alone, without scheme and host"
        if "?" in value:
            return "the query takes no part in the choice of a route"
    elif field == "http_path" and not value.startswith("/"):
        return "the path alone, from /"
    return ""


def _unknown_plugin(name: str) -> tuple[str, str]:
    if name in NOT_YET:
        return f"the plugin {name} is not supported yet", f"supported: {', '.join(SUPPORTED)}"
    near = nearest(name, (*SUPPORTED, *NOT_YET))
    hint = f"did you mean {near}?" if near else f"supported: {', '.join(SUPPORTED)}"
    return f"unknown plugin {shown(name)}", hint


def _expected(schema: Schema) -> str:
    """What a schema wants, as the end of "expected ..."."""
    if "x-expected" in schema:
        return str(schema["x-expected"])
    if "enum" in schema:
        return _either([str(item) for item in schema["enum"]])
    kinds = schema.get("type", "string")
    what = _either([_NOUNS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)])
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        what += f" above {schema['exclusiveMinimum']}"
        if high is not None:
            what += f" and up to {high}"
    elif low is not None and high is not None:
        what += f" from {low} to {high}"
    elif low is not None:
        what += f" of at least {low}"
    if schema.get("minItems") or schema.get("minProperties"):
        what += " with at least one entry"
    return what


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
