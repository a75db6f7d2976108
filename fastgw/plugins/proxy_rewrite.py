"""``proxy-rewrite``: change the path, the method, the Host or header fields of what a node gets.

Header verbs run in APISIX's order: add, set, remove. What does not depend on the request is
known when the configuration is loaded (``static_edits``) and costs nothing per request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ClientError
from ..proxy import answers
from ..proxy.phases import Answer, ClientRequest
from ..secret import Secret, reveal
from ..wire.head import check_name, check_value
from .variables import Template

# What a target may not hold as it is: all but visible ASCII, and the sign of a fragment.
_UNSAFE = re.compile(r"[^\x21\x22\x24-\x7e]")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|;|$)", re.IGNORECASE)


class ProxyRewrite:
    """One plugin object. ``conf`` has been validated; any text in it may be secret."""

    name = "proxy-rewrite"
    priority = 1008

    def __init__(self, conf: Mapping[str, Any]) -> None:
        self.uri = Template(reveal(conf["uri"])) if "uri" in conf else None
        pairs = conf.get("regex_uri", ())
        self.regex_uri = [
            (re.compile(reveal(pattern)), Template(reveal(replacement)))
            for pattern, replacement in zip(pairs[::2], pairs[1::2], strict=True)
        ]
        self.method = reveal(conf["method"]).encode() if "method" in conf else None
        self.host: bytes | None = check_value(reveal(conf["host"]).encode()) if "host" in conf else None
        headers = conf.get("headers", {})
        if not headers.keys() <= {"add", "set", "remove"}:
            headers = {"set": headers}
        self.add = _fields(headers.get("add", {}))
        self.set = _fields(headers.get("set", {}))
        self.remove = frozenset(check_name(name.lower().encode()) for name in headers.get("remove", ()))

    @property
    def is_static(self) -> bool:
        """Does this plugin do the same to every request, and only to header fields?"""
        return (
            self.uri is None
            and not self.regex_uri
            and self.method is None
            and all(value.is_static for _, value in [*self.add, *self.set])
        )

    def static_edits(self) -> tuple[list[tuple[bytes, bytes]], set[bytes]]:
        """(fields to send, names of client fields to drop), if ``is_static``."""
        return self._edits(lambda template: template.text)

    def _edits(self, render: Any) -> tuple[list[tuple[bytes, bytes]], set[bytes]]:
        replaced = {name for name, _ in self.set}
        fields = [(name, value) for name, value in self.add if name not in replaced] + self.set
        sent = []
        for name, template in fields:
            value = render(template).encode("utf-8", "surrogateescape")
            if value and name not in self.remove:
                sent.append((name, check_value(value)))
        return sent, replaced | self.remove

    def on_request(self, request: ClientRequest) -> Answer | None:
        path, _, query = request.target.decode("latin-1").partition("?")
        groups: tuple[str, ...] = ()
        rewritten: str | None = None
        if self.uri is not None:
            rewritten = self.uri.render(request)
        else:
            for pattern, replacement in self.regex_uri:
                match = pattern.search(path)
                if match:
                    groups = tuple(part or "" for part in match.groups())
                    rewritten = replacement.render(request, groups)
                    break
        if rewritten is not None:
            if not rewritten.startswith("/"):
                rewritten = "/" + rewritten
            if _DOT_SEGMENT.search(rewritten.partition("?")[0]):
                # By a value of the request: the node would see another path than the route's.
                return _refuse("a path with dot segments")
            if query:
                rewritten += ("&" if "?" in rewritten else "?") + query
            # A control character or a space here would begin another request line.
            request.target = _UNSAFE.sub(_percent, rewritten).encode("ascii")
        if self.method is not None:
            request.method = self.method
        try:
            fields, dropped = self._edits(lambda template: template.render(request, groups))
        except ValueError:
            # A header of the request, used in a value, holds what no header may: impossible
            # for one that came through our own scanner, so the variable is at fault.
            return _refuse("a header value is not valid")
        request.added += fields
        request.dropped |= dropped
        return None


def _refuse(message: str) -> Answer:
    error = ClientError(message)
    return Answer(400, answers.error_body(str(error), error.kind, error.code))


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogateescape"))


def _fields(verb: Mapping[str, Any]) -> list[tuple[bytes, Template]]:
    """(lower-case name, value) pairs; a list of values is several lines."""
    fields = []
    for name, values in verb.items():
        written: Iterable[Any] = values if isinstance(values, list | tuple) else (values,)
        for value in written:
            text = reveal(value) if isinstance(value, Secret) else str(value)
            fields.append((check_name(name.lower().encode()), Template(text)))
    return fields
