"""YAML text -> plain values, each with its place in the file.

The text is read event by event instead of through PyYAML's constructors: positions stay known, a
limit is checked before memory is spent, and what YAML 1.1 does behind a writer's back is seen.
Keys are always the text that was written, so ``on:`` is the key "on".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from fastgw.config.problems import Path, Report, shown

MAX_DEPTH = 20
MAX_ALIASES = 100
MAX_VALUES = 100_000  # counted after aliases are followed

_SECRET_KEYS = frozenset(
    ("auth", "headers", "key", "admin_token", "endpoint", "req_headers", "http_request_headers")
)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)", re.ASCII)
_MAX_DIGITS = 30

_SYNTAX_HINTS = (
    ("cannot start any token", "indent with spaces, and quote values that begin with @, `, % or a tab"),
    ("mapping values are not allowed", "quote a value that contains ': ', or check the indentation"),
    ("could not find expected ':'", "a key needs ': ' after it"),
    ("did not find expected key", "check the indentation of this line"),
    ("did not find expected '-' indicator", "check the indentation of this line"),
    ("found unexpected end of stream", "a quote or bracket is never closed"),
    ("did not find expected ',' or", "a bracket is never closed, or a comma is missing"),
)


@dataclass(slots=True)
class Document:
    """The values of one file. Positions are (line, column), counted from 1."""

    data: Any = field(repr=False)
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    key_marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    raw: dict[Path, str] = field(default_factory=dict, repr=False)  # scalars that are not text, as written
    broken: set[Path] = field(default_factory=set)  # reported already: say no more about them
    expanded: set[Path] = field(default_factory=set)  # came from a variable or file: never shown

    def position(self, path: Path) -> tuple[int, int]:
        """Where the value at path stands, or the nearest thing around it that was written."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))

    def key_position(self, path: Path) -> tuple[int, int]:
        """Where the key that leads to path stands."""
        return self.key_marks.get(path) or self.position(path)

    def is_secret(self, path: Path) -> bool:
        """May the value at path never be shown?"""
        return path in self.expanded or not _SECRET_KEYS.isdisjoint(path)

    def is_written(self, path: Path) -> bool:
        """Does the file have a value at path, right or wrong?"""
        return path in self.marks


class _Node:
    """A scalar, list or map as composed; aliases share one."""

    __slots__ = ("column", "fault", "is_plain", "items", "line", "pairs", "text", "value")

    def __init__(self, mark: Any) -> None:
        self.line, self.column = _position(mark)
        self.text = ""
        self.value: Any = None
        self.is_plain = False
        self.fault: tuple[str, str] | None = None
        self.items: list[_Node] | None = None
        self.pairs: list[tuple[_Node, _Node]] | None = None


class _Refused(Exception):
    """Nothing more can be read from this text; the report says why."""


def parse(text: str, report: Report) -> Document | None:
    """Read one YAML document. None: the report says why nothing can be made of it."""
    try:
        root = _Composer(text, report).compose()
        if root is None:
            report.error((1, 1), (), "the file is empty", "examples/llm.yaml is one to start from")
            return None
        if root.pairs is None:
            kind = "a list" if root.items is not None else "a single value"
            report.error((root.line, root.column), (), f"expected a mapping (`key: value`), got {kind}")
            return None
        return _Expansion(report).expand(root)
    except _Refused:
        return None


class _Composer:
    """Builds nodes from parser events."""

    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report
        self._loader: Any = None
        self._anchors: dict[str, _Node] = {}
        self._aliases = 0
        self._values = 0
        self._root: _Node | None = None
        self._open: list[tuple[_Node, str | None]] = []  # collections begun, with their anchors
        self._keys: list[_Node | None] = []  # for each of them: the key that waits for its value

    def compose(self) -> _Node | None:
        try:
            self._loader = _LOADER(self._text)
            self._read_events()
        except yaml.MarkedYAMLError as error:
            position = _position(error.problem_mark or error.context_mark)
            problem = (error.problem or error.context or "not YAML").strip()
            hint = next((hint for part, hint in _SYNTAX_HINTS if part in problem), "")
            line = self._text.split("\n")[position[0] - 1 : position[0]]
            if line and re.search(r"\{.*[^\"']\$\{", line[0]):
                hint = 'inside { } a variable needs quotes: "${NAME}"'
            self._refuse(position, f"YAML syntax: {problem}", hint)
        except yaml.reader.ReaderError as error:
            before = self._text.encode()[: error.position].decode(errors="ignore")
            line_start = before.rfind("\n") + 1
            position = (before.count("\n") + 1, len(before) - line_start + 1)
            self._refuse(position, "a control character that YAML does not allow", "is this a binary file?")
        finally:
            if self._loader is not None:
                self._loader.dispose()
        return self._root

    def _read_events(self) -> None:
        documents = 0
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.ScalarEvent):
                self._place(self._scalar(event), event.anchor)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._begin(event)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                node, anchor = self._open.pop()
                self._keys.pop()
                self._place(node, anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._place(self._alias(event), None)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    hint = "one file, one document: remove `---`"
                    self._refuse(_position(event.start_mark), "a second YAML document", hint)
            elif event is None or isinstance(event, yaml.StreamEndEvent):
                return

    def _begin(self, event: Any) -> None:
        node = _Node(event.start_mark)
        if isinstance(event, yaml.MappingStartEvent):
            node.pairs = []
        else:
            node.items = []
        if event.tag is not None:
            node.fault = _tag_fault(event.tag)
        if len(self._open) >= MAX_DEPTH:
            self._refuse((node.line, node.column), f"nested deeper than {MAX_DEPTH} levels")
        self._open.append((node, event.anchor))
        self._keys.append(None)

    def _place(self, node: _Node, anchor: str | None) -> None:
        """Put a finished node where it belongs."""
        self._values += 1
        if self._values > MAX_VALUES:
            self._refuse((node.line, node.column), f"more than {MAX_VALUES} values")
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            if self._root is None:
                self._root = node
            return
        parent = self._open[-1][0]
        if parent.items is not None:
            parent.items.append(node)
            return
        assert parent.pairs is not None
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = node
        else:
            parent.pairs.append((key, node))
            self._keys[-1] = None

    def _alias(self, event: Any) -> _Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(_position(event.start_mark), f"more than {MAX_ALIASES} aliases")
        node = self._anchors.get(event.anchor)
        if node is None:
            node = _Node(event.start_mark)
            node.fault = (
                f"no finished anchor has the name {shown(event.anchor)}",
                "write `&name` on an earlier value",
            )
        return node

    def _awaits_key(self) -> bool:
        return bool(self._open) and self._open[-1][0].pairs is not None and self._keys[-1] is None

    def _scalar(self, event: Any) -> _Node:
        node = _Node(event.start_mark)
        node.text = node.value = event.value
        if event.tag is not None:
            node.fault = _tag_fault(event.tag)
        elif event.implicit[0]:
            node.is_plain = True
            if self._awaits_key():
                return node  # the text as written
            tag = self._loader.resolve(yaml.ScalarNode, event.value, (True, False))
            _resolve(node, tag.removeprefix(_TAG))
        return node

    def _refuse(self, position: tuple[int, int], message: str, hint: str = "") -> NoReturn:
        self._report.error(position, (), message, hint)
        raise _Refused


def _position(mark: Any) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _tag_fault(tag: str) -> tuple[str, str]:
    if tag.startswith(_TAG):
        found = f"the tag {shown(tag.replace(_TAG, '!!'))} is not accepted"
        return found, "configuration values need no tags"
    # It is not shown, for it may be a key.
    return "a text that begins with `!` is a tag, which is not accepted", "put it in quotes if text is meant"


def _resolve(node: _Node, tag: str) -> None:
    """Give a plain scalar its value, or a fault where YAML 1.1 reads something nobody meant."""
    text = node.text
    if tag == "null":
        node.value = None
    elif tag == "bool":
        node.value = text.lower() in ("yes", "true", "on")
    elif tag == "int":
        node.value = _integer(node)
    elif tag == "float":
        node.value = _float(node)
    # Everything else (text, timestamps, "=") is the text as written.


def _integer(node: _Node) -> int | str:
    text = node.text
    quoted = f'write "{text}" in quotes if text is meant'
    if len(text) > _MAX_DIGITS:
        node.fault = ("a number with too many digits", "put it in quotes if text is meant")
    elif ":" in text:
        node.fault = (f"YAML reads {text} as a number in base 60", quoted)
    elif _DECIMAL.fullmatch(text):
        return int(text.replace("_", ""))
    elif re.match(r"[-+]?0[bx]", text):
        return int(text.replace("_", ""), 0)
    else:
        node.fault = (f"YAML reads {text} as an octal number", quoted)
    return text


def _float(node: _Node) -> float | str:
    text = node.text
    if ":" in text:
        node.fault = (f"YAML reads {shown(text)} as a number in base 60", "put it in quotes if text is meant")
        return text
    plain = text.replace("_", "").lower()
    if plain.lstrip("+-") in (".inf", ".nan"):
        plain = plain.replace(".", "")
    try:
        value = float(plain)
    except ValueError:
        return text
    if not math.isfinite(value):
        node.fault = (f"{shown(text)} is not a finite number", "")
        return text
    return value


class _Expansion:
    """Follows aliases and merges, so that every value has one path and one mark."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._document = Document(None)
        self._values = 0

    def expand(self, root: _Node) -> Document:
        self._document.data = self._value(root, ())
        return self._document

    def _value(self, node: _Node, path: Path) -> Any:
        document = self._document
        self._count(node)
        if len(path) > MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels once aliases are followed"
            self._report.error((node.line, node.column), (), message)
            raise _Refused
        document.marks[path] = (node.line, node.column)
        if node.fault is not None:
            self._report.error((node.line, node.column), path, *node.fault)
            document.broken.add(path)
        if node.items is not None:
            return [self._value(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self._map(node, path)
        if node.value is not node.text:
            document.raw[path] = node.text
        return node.value

    def _map(self, node: _Node, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[_Node] = []
        assert node.pairs is not None
        for key, value in node.pairs:
            if key.items is not None or key.pairs is not None or key.fault is not None:
                message, hint = key.fault or ("a key must be a word, not a list or a mapping", "")
                self._report.error((key.line, key.column), path, message, hint)
                continue
            if _is_merge(key):
                merged.append(value)
                continue
            below = (*path, key.text)
            if not key.text:
                self._report.error((key.line, key.column), path, "a key is empty")
            elif key.text in result:
                first = self._document.key_marks[below][0]
                self._report.error(
                    (key.line, key.column), below, "this key is written twice", f"first in line {first}"
                )
            else:
                self._add(key, value, path, result)
        for source in merged:
            self._merge(source, path, result)
        return result

    def _add(self, key: _Node, value: _Node, path: Path, result: dict[str, Any]) -> None:
        below = (*path, key.text)
        self._document.key_marks[below] = (key.line, key.column)
        result[key.text] = self._value(value, below)

    def _merge(self, source: _Node, path: Path, result: dict[str, Any]) -> None:
        """``<<``: keys that are not there yet come from the mapping (or mappings) it names."""
        for item in source.items if source.items is not None else [source]:
            if item.pairs is None:
                self._report.error(
                    (item.line, item.column), path, "`<<` takes a mapping or a list of mappings"
                )
                continue
            nested = []
            for key, value in item.pairs:
                self._count(item)
                if key.fault is None and _is_merge(key):
                    nested.append(value)
                elif key.text and key.fault is None and key.text not in result:
                    self._add(key, value, path, result)
            for below in nested:
                self._merge(below, path, result)

    def _count(self, node: _Node) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            message = f"more than {MAX_VALUES} values once aliases are followed"
            self._report.error((node.line, node.column), (), message)
            raise _Refused


def _is_merge(key: _Node) -> bool:
    return key.is_plain and key.text == "<<"
