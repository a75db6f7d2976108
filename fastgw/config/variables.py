"""Variables in scalars: environment variables, credentials and files, expanded after parsing.

=========================  =======================================================================
``${NAME}``                environment variable; ``${NAME:=default}`` when it may be unset
``${{NAME}}``              the same, in APISIX's spelling; ``${{NAME:=default}}``
``$ENV://NAME``            a whole value; ``$env://NAME/key`` takes one key of a JSON object
``${credential:NAME}``     the file of that name in the credential directory, without its last line break
``file://PATH``            a whole value: the file's text, without its last line break
``\\${NAME}``               the text ``${NAME}`` itself
=========================  =======================================================================

Inside plugins ``${name}`` in other than capitals is a variable of the request and is left alone.
Only what was written in the file is expanded, never what a variable or file brought in.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path as FilePath
from typing import Any

from fastgw.config import key_file
from fastgw.config.marks import Document
from fastgw.config.origins import Origins
from fastgw.config.problems import Path, Report, nearest, shown

MAX_VALUE_CHARS = 64 * 1024

_REFERENCE = re.compile(
    r"\\\$\{"
    r"|\$\{\{ {0,8}(?P<braced>[A-Za-z_][A-Za-z0-9_]*) {0,8}(?::=(?P<braced_default>[^{}]*))?\}\}"
    r"|\$\{credential:(?P<credential>[^{}]*)\}"
    r"|\$\{(?P<name>[A-Z_][A-Z0-9_]*)(?::=(?P<default>[^{}]*))?\}"
    r"|\$\{",
    re.ASCII,
)
_CREDENTIAL_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,255}", re.ASCII)
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # systemd's
_CREDENTIALS_DIR: Path = ("fastgw", "credentials_dir")
_WHOLE_ENV = re.compile(r"\$env://([A-Za-z_][A-Za-z0-9_]*)(?:/(.+))?", re.ASCII | re.IGNORECASE)


class _Place(Enum):
    """Where a scalar stands decides what else a ``$`` may mean there."""

    PLAIN = 1
    PLUGIN = 2  # ${lower_case} belongs to the request
    TEMPLATE = 3  # as PLUGIN, and the plugin will look for $variables in what we insert


class _Unresolved(Exception):
    """A reference that cannot be resolved: (message, hint)."""


def expand(document: Document, report: Report, origins: Origins) -> None:
    """Replace every variable in the document's strings; each failure becomes a problem."""
    _Expander(document, report, origins).walk(document.data, ())


class _Expander:
    def __init__(self, document: Document, report: Report, origins: Origins) -> None:
        self._document = document
        self._report = report
        self._env = origins.env
        self._origins = origins
        self._credentials_dir: FilePath | None = None
        self._credentials_dir = self._find_credentials_dir()

    def _find_credentials_dir(self) -> FilePath | None:
        """Where credentials are; the file's own word for it is expanded before all others."""
        origins = self._origins
        process = self._document.data.get("fastgw")
        written = process.get("credentials_dir") if isinstance(process, dict) else None
        if isinstance(written, str):
            process["credentials_dir"] = written = self._scalar(written, _CREDENTIALS_DIR)
        if origins.credentials_dir:
            return FilePath(origins.credentials_dir)
        if isinstance(written, str) and written:
            return origins.base / written
        named = self._env.get(CREDENTIALS_VARIABLE)
        return FilePath(named) if named else None

    def walk(self, value: Any, path: Path) -> None:
        """Expand the strings inside a list or mapping, in place."""
        entries = enumerate(value) if isinstance(value, list) else list(value.items())
        for key, item in entries:
            below = (*path, key)
            if isinstance(item, str):
                if ("$" in item or item.startswith("file://")) and below != _CREDENTIALS_DIR:
                    value[key] = self._scalar(item, below)
            elif isinstance(item, (dict, list)):
                self.walk(item, below)

    def _scalar(self, text: str, path: Path) -> str:
        place = _place(path)
        try:
            expanded = self._expanded(text, path, place)
        except _Unresolved as error:
            message, hint = error.args
            self._report.error(self._document.position(path), path, message, hint)
            self._document.broken.add(path)
            return text
        if len(expanded) > MAX_VALUE_CHARS:
            self._report.error(
                self._document.position(path), path, f"longer than {MAX_VALUE_CHARS} characters"
            )
            self._document.broken.add(path)
            return text
        return expanded

    def _expanded(self, text: str, path: Path, place: _Place) -> str:
        if whole := _WHOLE_ENV.fullmatch(text):
            return self._insert(self._env_value(whole[1], whole[2]), path, place)
        if text.lower().startswith("$secret://"):
            raise _Unresolved("secret managers are not supported yet", "use ${NAME} or file://PATH")
        expanded = _REFERENCE.sub(lambda match: self._replaced(match, path, place), text)
        if text.startswith("file://"):
            file = self._origins.base / expanded.removeprefix("file://")
            return self._insert(self._file_text(file), path, place)
        return expanded

    def _replaced(self, match: re.Match[str], path: Path, place: _Place) -> str:
        if match[0] == "\\${":
            return match[0] if place is _Place.TEMPLATE else "${"
        if match["credential"] is not None:
            return self._insert(self._credential(match["credential"]), path, place)
        name = match["braced"] or match["name"]
        if name is None:
            if place is _Place.PLAIN:
                raise _Unresolved(
                    "`${` begins no variable that is known here",
                    "environment variables are written ${NAME} in capitals, credentials ${credential:NAME}; "
                    "\\${ is the text itself",
                )
            return match[0]
        default = match["braced_default"] if match["braced"] else match["default"]
        if default is not None and name not in self._env:
            return default
        return self._insert(self._env_value(name, None), path, place)

    def _insert(self, value: str, path: Path, place: _Place) -> str:
        """A value on its way into the configuration: not to be shown, and not to be expanded again."""
        self._document.expanded.add(path)
        self._report.hide(value)
        return value.replace("$", "\\$") if place is _Place.TEMPLATE else value

    def _env_value(self, name: str, key: str | None) -> str:
        value = self._env.get(name)
        if value is not None and not is_text(value):
            raise _Unresolved(f"the environment variable {name} is not text in UTF-8", "")
        if value is None:
            near = nearest(name, self._env, 0.85)  # OTHER_API_KEY is a neighbour, not a slip
            meant = f"did you mean {near}? " if near else ""
            raise _Unresolved(
                f"the environment variable {name} is not set", f"{meant}${{{name}:=value}} gives a default"
            )
        if key is None:
            return value
        try:
            found = json.loads(value)[key]
            if isinstance(found, str) and not is_text(found):  # half a character, as JSON can have it
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _Unresolved(
                f"the environment variable {name} has no key {shown(key)}", "it must be a JSON object"
            ) from None
        return found if isinstance(found, str) else json.dumps(found)

    def _credential(self, name: str) -> str:
        if not _CREDENTIAL_NAME.fullmatch(name):
            raise _Unresolved(
                f"{shown(name)} is no name of a credential",
                "letters, digits, `_`, `-` and `.`: a file's name",
            )
        if self._credentials_dir is None:
            raise _Unresolved(
                "no credential directory is known",
                f"--credentials-dir, fastgw: {{credentials_dir: DIR}}, or systemd's {CREDENTIALS_VARIABLE}",
            )
        try:
            return self._file_text(self._credentials_dir / name)
        except _Unresolved as error:
            message, hint = error.args
            raise _Unresolved(f"credential {name}: {message}", hint) from None

    def _file_text(self, file: FilePath) -> str:
        try:
            return key_file.read(file, allows_exposed=self._origins.allows_exposed)
        except key_file.BadKeyFile as error:
            raise _Unresolved(*error.args) from None


def is_text(value: str) -> bool:
    """Can a value be written in UTF-8? An environment may hold any bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(path: Path) -> _Place:
    """Is path inside a plugin's conf, and is it a text that the plugin expands per request?"""
    for index, part in enumerate(path):
        if part == "plugins" and index + 2 < len(path):
            inside = path[index + 2 :]
            is_template = path[index + 1] == "proxy-rewrite" and _is_template(inside)
            return _Place.TEMPLATE if is_template else _Place.PLUGIN
        if part == "config" and "credentials" in path[:index]:
            return _Place.PLUGIN
    return _Place.PLAIN


def _is_template(inside: Path) -> bool:
    """Does proxy-rewrite expand the value at this path of its conf for each request?"""
    if inside[0] == "headers":
        return inside[1:2] != ("remove",)
    if inside[0] == "regex_uri":  # pattern, replacement, pattern, replacement ...
        return isinstance(inside[-1], int) and inside[-1] % 2 == 1
    return inside[0] == "uri"
