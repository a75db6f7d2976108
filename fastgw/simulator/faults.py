"""Faults as data: what a simulated provider does wrong, to which requests, and for how long.

A `Fault` is plain and frozen, so the control listener and the tests speak the same language.  What it does
to an answer is in ``script.py``; what it does to sockets and handshakes is in ``provider.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import orjson

from fastgw.simulator.certificates import VARIANTS


class FaultKind(StrEnum):
    """What goes wrong."""

    # of the connection
    REFUSE = "refuse"
    BAD_CERTIFICATE = "bad_certificate"
    HANDSHAKE_HANG = "handshake_hang"
    # before the head
    HANG_BEFORE_HEAD = "hang_before_head"
    SLOW_HEAD = "slow_head"
    RESET_BEFORE_HEAD = "reset_before_head"
    # another answer
    STATUS = "status"
    EMPTY_200 = "empty_200"
    HTML_200 = "html_200"
    RAW = "raw"
    # inside the answer
    RESET_AFTER_HEAD = "reset_after_head"
    RESET_INSIDE = "reset_inside"
    STALL = "stall"
    KEEPALIVE_FLOOD = "keepalive_flood"
    ERROR_EVENT = "error_event"
    MALFORMED_EVENT = "malformed_event"
    MISSING_DONE = "missing_done"
    TRUNCATE_TLS = "truncate_tls"
    # around an answer that is itself in order
    CLOSE_AFTER = "close_after"
    CLOSE_DELIMITED = "close_delimited"


CONNECTION_KINDS = frozenset({FaultKind.REFUSE, FaultKind.BAD_CERTIFICATE, FaultKind.HANDSHAKE_HANG})

#: The parameters that mean something for each kind; any other one is a mistake and is refused.
PARAMETERS: Mapping[FaultKind, frozenset[str]] = {
    FaultKind.REFUSE: frozenset(),
    FaultKind.BAD_CERTIFICATE: frozenset({"variant"}),
    FaultKind.HANDSHAKE_HANG: frozenset(),
    FaultKind.HANG_BEFORE_HEAD: frozenset({"duration_s"}),
    FaultKind.SLOW_HEAD: frozenset({"interval_s"}),
    FaultKind.RESET_BEFORE_HEAD: frozenset({"how"}),
    FaultKind.STATUS: frozenset({"status", "body", "headers", "early"}),
    FaultKind.EMPTY_200: frozenset(),
    FaultKind.HTML_200: frozenset({"body"}),
    FaultKind.RAW: frozenset({"body", "how"}),
    FaultKind.RESET_AFTER_HEAD: frozenset({"how"}),
    FaultKind.RESET_INSIDE: frozenset({"after", "after_bytes", "how"}),
    FaultKind.STALL: frozenset({"after", "after_bytes", "duration_s"}),
    FaultKind.KEEPALIVE_FLOOD: frozenset({"interval_s", "duration_s"}),
    FaultKind.ERROR_EVENT: frozenset({"after", "body", "done"}),
    FaultKind.MALFORMED_EVENT: frozenset({"after", "body"}),
    FaultKind.MISSING_DONE: frozenset(),
    FaultKind.TRUNCATE_TLS: frozenset({"after", "after_bytes"}),
    FaultKind.CLOSE_AFTER: frozenset({"after", "announce"}),
    FaultKind.CLOSE_DELIMITED: frozenset(),
}
_ALWAYS_KNOWN = frozenset({"probability", "count"})
_OF_REQUESTS = frozenset({"delay_s", "paths", "only_path", "match", "stream", "reused"})

_HOWS: Mapping[FaultKind, tuple[str, ...]] = {
    FaultKind.RESET_BEFORE_HEAD: ("rst", "fin"),
    FaultKind.RESET_AFTER_HEAD: ("rst", "fin", "clean"),
    FaultKind.RESET_INSIDE: ("rst", "fin", "clean"),
    FaultKind.RAW: ("fin", "rst", "hang", "keep"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ValueError when a parameter is out of range or means nothing for the kind.

    What happens:
        status, headers, body: of the answer (``status``); ``body`` is also the page of ``html_200``, the
            data of ``error_event`` and ``malformed_event``, and the bytes (Latin-1) of ``raw``.
        early: answer as soon as the request's head is there, while its body is still going up.
        variant: what is wrong with the certificate, one of ``certificates.VARIANTS``.
        after: content events that still go out first (``close_after``: requests per connection). Unset
            means 1; for ``error_event`` unset means "before anything else".
        after_bytes: the same for an answer that is no stream, in bytes of its body; unset means half of it.
        how: the way a connection ends: ``rst``; ``fin`` (close_notify and FIN in the middle of the
            body); ``clean`` (the body is ended properly although the answer is not whole). For ``raw``
            also ``hang`` and ``keep`` (open for the next request).
        delay_s: wait before anything of this happens.
        interval_s: between the bytes of ``slow_head`` and the comments of ``keepalive_flood``.
        duration_s: how long ``hang_before_head``, ``stall`` and ``keepalive_flood`` last before the answer
            goes on in order; unset means for ever.
        done: whether ``[DONE]`` and a proper end follow an error event.
        announce: whether ``close_after`` says ``Connection: close`` in the last answer.

    To whom:
        paths: "all", "api" (everything but ``/``) or "root" (``/`` only).
        only_path: this path only.    match: only requests whose body contains this text.
        stream: only streamed (True) or only plain (False) answers.
        reused: only requests that are not (True), or are (False), the first on their connection.
        probability: of each request that fits.
        count: after so many requests (connections, for the connection's kinds) the fault is over.
    """

    kind: FaultKind
    status: int = 500
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False
    variant: str = VARIANTS[0]
    after: int | None = None
    after_bytes: int | None = None
    how: str | None = None
    delay_s: float = 0.0
    interval_s: float = 0.5
    duration_s: float | None = None
    done: bool = True
    announce: bool = True
    paths: str = "all"
    only_path: str | None = None
    match: str | None = None
    stream: bool | None = None
    reused: bool | None = None
    probability: float = 1.0
    count: int | None = None

    def __post_init__(self) -> None:
        try:
            kind = FaultKind(self.kind)
        except ValueError:
            known = ", ".join(kind.value for kind in FaultKind)
            raise ValueError(f"kind: unknown fault {self.kind!r}; one of {known}") from None
        object.__setattr__(self, "kind", kind)
        self._normalise_text()
        self._refuse_meaningless()
        self._check_types()
        self._check_ranges()

    @property
    def is_of_connection(self) -> bool:
        """Whether it strikes before a request exists."""
        return self.kind in CONNECTION_KINDS

    @property
    def manner(self) -> str:
        """``how``, or the default of the kind."""
        return self.how or _HOWS[self.kind][0]

    def fits(self, path: str, body: bytes, *, is_stream: bool, is_reused: bool) -> bool:
        """Is a request one that this fault is for? (Leaves ``probability`` and ``count`` to the caller.)"""
        if self.paths != "all" and (path == "/") != (self.paths == "root"):
            return False
        if self.only_path is not None and path != self.only_path:
            return False
        if self.stream is not None and is_stream != self.stream:
            return False
        if self.reused is not None and is_reused != self.reused:
            return False
        return self.match is None or self.match.encode() in body

    # --- JSON ---------------------------------------------------------------------------------

    @classmethod
    def from_json(cls, value: object) -> "Fault":
        """Build one from parsed JSON. ValueError says which field is wrong."""
        if not isinstance(value, Mapping):
            example = '{"kind": "status", "status": 503}'
            raise ValueError(f"a fault is an object, e.g. {example}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(str(name) for name in value if name not in known)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if "kind" not in value:
            raise ValueError("kind: missing")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults; `from_json` gives an equal fault back."""
        shown: dict[str, Any] = {"kind": self.kind.value}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "kind" and value != field.default:
                shown[field.name] = dict(value) if field.name == "headers" else value
        if len(shown.get("headers", ())) != len(self.headers):  # a repeated name
            shown["headers"] = [list(pair) for pair in self.headers]
        if not self.headers:
            shown.pop("headers", None)
        return shown

    # --- Checks -------------------------------------------------------------------------------

    def _normalise_text(self) -> None:
        body: object = self.body
        if isinstance(body, (dict, list)):
            object.__setattr__(self, "body", orjson.dumps(body).decode())
        headers: object = self.headers
        pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
        if not isinstance(pairs, (list, tuple)):
            raise ValueError("headers: expected an object or a list of pairs")
        normal = []
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ValueError("headers: expected an object or a list of pairs")
            name, value = str(pair[0]), str(pair[1])
            if not name or any(c in name + value for c in "\r\n\0") or any(c in name for c in ": \t"):
                raise ValueError(f"headers: {name!r} is not a header")
            normal.append((name, value))
        object.__setattr__(self, "headers", tuple(normal))

    def _refuse_meaningless(self) -> None:
        meant = PARAMETERS[self.kind] | _ALWAYS_KNOWN | {"kind"}
        if not self.is_of_connection:
            meant |= _OF_REQUESTS
        for field in fields(self):
            if field.name not in meant and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name}: means nothing for {self.kind.value}")

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = _TYPES.get(field.name)
            if allowed is None or (value is None and field.default is None):
                continue
            if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
                raise ValueError(f"{field.name}: expected {allowed[0].__name__}, got {value!r}")

    def _check_ranges(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status: {self.status} is not between 200 and 599")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant: {self.variant!r} is not one of {', '.join(VARIANTS)}")
        if self.how is not None and self.how not in _HOWS[self.kind]:
            raise ValueError(f"how: {self.how!r} is not one of {', '.join(_HOWS[self.kind])}")
        if self.paths not in ("all", "api", "root"):
            raise ValueError(f"paths: {self.paths!r} is not one of all, api, root")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability: not between 0 and 1")
        if not 0.001 <= self.interval_s <= 3600.0:
            raise ValueError("interval_s: not between 0.001 and 3600")
        for name in ("delay_s", "duration_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 86400.0:
                raise ValueError(f"{name}: not between 0 and 86400")
        for name, least in (("after", 0), ("after_bytes", 0), ("count", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: less than {least}")
        if self.kind is FaultKind.CLOSE_AFTER and self.after == 0:
            raise ValueError("after: close_after needs at least 1 request")
        if self.kind is FaultKind.REFUSE and (self.count is not None or self.probability != 1.0):
            raise ValueError("refuse: no connection is seen, so it has neither count nor probability")
        if self.kind is FaultKind.RAW:
            if self.body is None:
                raise ValueError("body: raw needs the bytes to send")
            if any(ord(character) > 255 for character in self.body):
                raise ValueError("body: raw takes Latin-1 only")
        if self.early and (self.match is not None or self.stream is not None):
            raise ValueError("early: match and stream are not known before the body")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "status": (int,),
    "body": (str,),
    "early": (bool,),
    "variant": (str,),
    "after": (int,),
    "after_bytes": (int,),
    "how": (str,),
    "delay_s": (float, int),
    "interval_s": (float, int),
    "duration_s": (float, int),
    "done": (bool,),
    "announce": (bool,),
    "paths": (str,),
    "only_path": (str,),
    "match": (str,),
    "stream": (bool,),
    "reused": (bool,),
    "probability": (float, int),
    "count": (int,),
}
