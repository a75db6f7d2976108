"""Values with variables: ``$name``, ``${name}``, ``${name ?? fallback}``, and ``$1`` of a match.

An unknown or missing variable is empty. A backslash before ``$`` makes it a plain character.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from ..proxy.phases import ClientRequest

_VARIABLE = re.compile(
    r"\\\$|\$(?:(?P<group>\d)|(?P<name>[a-zA-Z_]\w*)|\{\s*(?P<braced>[a-zA-Z_]\w*|\d)\s*(?:\?\?\s*(?P<fallback>[^}]*?)\s*)?\})"
)


class Template:
    """One value as written in a configuration."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_static = _VARIABLE.search(text) is None

    def render(self, request: ClientRequest, groups: tuple[str, ...] = ()) -> str:
        """The value for one request. ``groups``: what a pattern's parentheses matched."""
        if self.is_static:
            return self.text

        def replace(match: re.Match[str]) -> str:
            if match.group() == "\\$":
                return "$"
            name = match["group"] or match["name"] or match["braced"]
            value = group(int(name), groups) if name.isdigit() else variable(name, request)
            return value or match["fallback"] or ""

        return _VARIABLE.sub(replace, self.text)


def group(number: int, groups: tuple[str, ...]) -> str:
    return groups[number - 1] if 0 < number <= len(groups) else ""


def variable(name: str, request: ClientRequest) -> str:
    """The value of an nginx-style variable, or "" when there is none."""
    head = request.head
    if name.startswith("http_"):
        value = head.get(name[5:].replace("_", "-").lower().encode("latin-1", "replace"))
        # As it came: written to a header again, it is the same bytes.
        return value.decode("utf-8", "surrogateescape") if value is not None else ""
    path, _, query = head.target.decode("latin-1").partition("?")
    if name.startswith("arg_"):
        return next((value for key, value in parse_qsl(query, keep_blank_values=True) if key == name[4:]), "")
    host = (head.host or b"").decode("latin-1")
    match name:
        case "uri":
            return path
        case "request_uri":
            return head.target.decode("latin-1")
        case "args" | "query_string":
            return query
        case "request_method":
            return head.method.decode("latin-1")
        case "http_host":
            return host
        case "host":
            name = host.lower()
            return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
        case "remote_addr":
            return request.connection.peer_address()
        case "consumer_name":
            return request.consumer or ""
        case "request_id":
            return request.request_id.decode("latin-1")
        case "scheme":
            return "http"
    return ""
