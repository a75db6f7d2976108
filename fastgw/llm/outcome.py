"""What a node's answer says: who failed, for how long, and may the request move?

One table decides, `TABLE`: first the words of the error object, which are exact, then the status.
A provider's error object is read as `code`, then `type`, then status; a message only where providers
are known to say it no other way.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import orjson

from fastgw.llm.body import BROKEN_OFF, Trait, answer_problem, is_broken_off

__all__ = [
    "CAPABILITIES",
    "TABLE",
    "UNKNOWN_MODEL",
    "UNSUPPORTED_CAPABILITY",
    "Headers",
    "Outcome",
    "ProviderError",
    "Rule",
    "Verdict",
    "answer_problem",
    "classify",
    "classify_error_event",
    "missing_capability",
    "read_error",
    "scopes_of",
    "table_text",
    "wait_of",
]

# A look-up by lower-case name, or any mapping of header names (any case, str or bytes).
Headers = Callable[[bytes], bytes | None] | Mapping[Any, Any]


class Verdict(IntEnum):
    """What one answer means for the node and for the request."""

    SUCCEEDED = 0
    BUSY = 1  # cool the node until the time it told; it is not sick
    FAILED = 2  # count a failure; enough of them eject
    DEAD = 3  # this key will not work until somebody acts
    FORBIDDEN = 4  # a key that may be dead; one such answer can be a firewall's mood
    MISFIT = 5  # this node cannot do this kind of request; another may
    REFUSED = 6  # too long for this model; another model may take it
    CALLER = 7  # the caller's own mistake: relayed, never moved; for the node a success


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verdict.

    Attributes:
        verdict: what to do.
        reason: why, a short name for logs and counters.
        wait_s: seconds the provider asked for; None when it did not say.
        overload: busy for lack of capacity, not because of our limits.
        certain: the provider said it did not do the work, so the request may always move. If not,
            it may have run and been billed.
    """

    verdict: Verdict
    reason: str
    wait_s: float | None = None
    overload: bool = False
    certain: bool = True


@dataclass(frozen=True, slots=True)
class ProviderError:
    """The error object of an answer, lower-cased where it is compared; empty strings when absent."""

    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""
    status: int = 0  # a status told inside the body, 400..599

    def __bool__(self) -> bool:
        return bool(self.code or self.type or self.message or self.status)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: it holds when the status is in a range and, if any are named, one of the words is there.

    Attributes:
        statuses: inclusive ranges.
        names: `code` or `type` is one of these.
        params: `param` is one of these.
        phrases: `message` contains one of these; lower case.
    """

    statuses: tuple[tuple[int, int], ...]
    verdict: Verdict
    reason: str
    names: frozenset[str] = frozenset()
    params: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()
    certain: bool = True
    overload: bool = False

    def matches(self, status: int, error: ProviderError) -> bool:
        if not any(low <= status <= high for low, high in self.statuses):
            return False
        if not self.names and not self.params and not self.phrases:
            return True
        return (
            error.code in self.names
            or error.type in self.names
            or error.param in self.params
            or any(phrase in error.message for phrase in self.phrases)
        )


def _on(*statuses: int | tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((s, s) if isinstance(s, int) else s for s in statuses)


_ANY_ERROR = _on((400, 599))
_REFUSALS = _on((400, 403), 404, 413, 422, 429)

UNKNOWN_MODEL = "unknown_model"  # the reason of the misfit that is the model's own
UNSUPPORTED_CAPABILITY = "unsupported_capability"  # ... of one that only some requests meet with

# What a model may lack as a whole: its name, the traits of the requests that need it, how providers say
# that it is not there. (A kind of response_format, or thinking, is a matter of more than one trait.)
CAPABILITIES: tuple[tuple[bytes, Trait, tuple[str, ...]], ...] = (
    (
        b"images",
        Trait.IMAGE,
        ("does not support image", "unknown variant `image_url`", "image input is not supported"),
    ),
    (b"audio", Trait.AUDIO, ("does not support audio", "unknown variant `input_audio`")),
    (b"files", Trait.FILE, ("unknown variant `file`",)),
    (b"tools", Trait.TOOLS, ("does not support function calling", "does not support tools")),
)

# The first row that matches decides.
TABLE: tuple[Rule, ...] = (
    Rule(_on((200, 299)), Verdict.SUCCEEDED, "ok"),
    # Money and keys: nothing heals them but a person.
    Rule(
        _on((400, 403), 429),
        Verdict.DEAD,
        "no_quota",
        names=frozenset(
            {
                "insufficient_quota",
                "credit_balance_exhausted",
                "insufficient_balance",
                "insufficient_user_quota",
                "insufficient_credits",
                "billing_hard_limit_reached",
                "billing_not_active",
                "spend_limit_exceeded",
                "spend_limit_reached",
                "usage_limit_exceeded",
                "usage_limit_reached",
            }
        ),
        phrases=("exceeded your current quota", "insufficient balance", "credit balance is too low"),
    ),
    Rule(_on(402), Verdict.DEAD, "no_quota"),
    Rule(
        _on(400, 401, 403),
        Verdict.DEAD,
        "bad_key",
        names=frozenset(
            {"invalid_api_key", "invalid_authentication", "authentication_error", "account_deactivated"}
        ),
        phrases=("incorrect api key", "invalid api key", "api key not valid"),
    ),
    Rule(_on(401), Verdict.DEAD, "bad_key"),
    Rule(
        _on(403, 451),
        Verdict.DEAD,
        "unsupported_region",
        names=frozenset({"unsupported_country_region_territory", "unsupported_country"}),
    ),
    # The request is longer than the model can take.
    Rule(
        _REFUSALS,
        Verdict.REFUSED,
        "context_length",
        names=frozenset(
            {"context_length_exceeded", "context_window_exceeded", "model_context_window_exceeded"}
        ),
        phrases=(
            "maximum context length",
            "context length exceeded",
            "exceeds the context window",
            "exceed context window",
            "reduce the length of the messages",
            "reduce the length of the prompt",
        ),
    ),
    # A filter judged the text: no other node is asked behind its back.
    Rule(
        _REFUSALS,
        Verdict.CALLER,
        "content_policy",
        names=frozenset(
            {
                "content_policy_violation",
                "content_filter",
                "moderation_blocked",
                "invalid_prompt",
                "data_inspection_failed",
            }
        ),
        phrases=("content exists risk",),
    ),
    # The caller forgot the model altogether.
    Rule(_on(400, 422), Verdict.CALLER, "caller_error", phrases=("you must provide a model",)),
    # This node does not have the model, or cannot do what is asked.
    Rule(
        _on(400, 403, 404, 410, 422),
        Verdict.MISFIT,
        UNKNOWN_MODEL,
        names=frozenset(
            {
                "model_not_found",
                "model_not_exist",
                "model_not_available",
                "model_not_supported",
                "model_deprecated",
                "unknown_model",
                "unsupported_model",
                "invalid_model",
            }
        ),
        params=frozenset({"model"}),
        phrases=(
            "model not exist",
            "model not found",
            "model does not exist",
            "unknown model",
            "not a valid model",
            "supported api model names",
            "no endpoints found",
        ),
    ),
    Rule(
        _on(400, 404, 415, 422),
        Verdict.MISFIT,
        UNSUPPORTED_CAPABILITY,
        phrases=(
            "this response_format type is unavailable",
            "reasoning_content` in the thinking mode",
            "does not support this tool_choice",
            "does not support tool",
            *(phrase for _, _, phrases in CAPABILITIES for phrase in phrases),
        ),
    ),
    # One request above the whole limit of this account: waiting would not help it.
    Rule(_on(413, 429), Verdict.MISFIT, "request_over_limit", phrases=("request too large for",)),
    # Capacity, whatever the status says.
    Rule(
        _ANY_ERROR,
        Verdict.BUSY,
        "overloaded",
        names=frozenset(
            {
                "server_is_overloaded",
                "service_unavailable_error",
                "overloaded_error",
                "engine_overloaded",
                "engine_overloaded_error",
                "model_overloaded",
                "capacity_exceeded",
                BROKEN_OFF,
            }
        ),
        overload=True,
    ),
    Rule(_on(503, 529), Verdict.BUSY, "overloaded", overload=True),
    Rule(
        _ANY_ERROR,
        Verdict.BUSY,
        "rate_limited",
        names=frozenset(
            {
                "rate_limit_exceeded",
                "rate_limit_error",
                "slow_down",
                "too_many_requests",
                "rate_limit_reached",
            }
        ),
    ),
    # By status alone.
    Rule(_on(429), Verdict.BUSY, "rate_limited"),
    Rule(_on(403, 451), Verdict.FORBIDDEN, "forbidden"),
    Rule(_on(404, 410), Verdict.MISFIT, "not_found"),
    Rule(_on(405, 501), Verdict.MISFIT, "unsupported_method"),
    Rule(_on(408), Verdict.FAILED, "provider_timeout"),
    Rule(_on(421, 425), Verdict.FAILED, "connection_refused_by_status"),
    Rule(_on(407, 505), Verdict.FAILED, "bad_gateway_setup"),
    Rule(_on((300, 399)), Verdict.CALLER, "redirect"),
    Rule(_on((400, 499)), Verdict.CALLER, "caller_error"),
    Rule(_on(502, 504, (520, 527), 530), Verdict.FAILED, "bad_gateway", certain=False),
    Rule(_on((500, 599)), Verdict.FAILED, "server_error", certain=False),
    Rule(_on((0, 999)), Verdict.FAILED, "unexpected_status", certain=False),
)

WAIT_MIN_S = 0.5  # a limit that refills within milliseconds must not be run against all the time
OVERLOAD_WAIT_MAX_S = 60.0  # an overload is believed to last this long at most

# Of an answer's body only this much is read for its error object; less when it has to be searched.
_ERROR_BYTES = 64 * 1024
_SEARCH_BYTES = 8 * 1024

# Without a body the verdict depends on the status only: the answers are made once.
_BY_STATUS: dict[int, Outcome] = {}


def classify(
    status: int, headers: Headers | None = None, body: bytes = b"", *, now_wall: float | None = None
) -> Outcome:
    """Return what an answer with this head, and this much of its body, means.

    Args:
        headers: asked for `wait_of`'s fields only.
        body: the beginning of the body, which may be cut anywhere or be no JSON at all.
        now_wall: wall time, Unix seconds: a date in Retry-After is understood only with it.
    """
    if status < 300 and status >= 200:
        return _SUCCEEDED
    error = read_error(body) if body and status >= 400 else _NO_ERROR
    return _decide(status, error, headers, now_wall)


def classify_error_event(data: bytes) -> Outcome:
    """Return what an error inside a 200 means: an SSE event's data, or a whole body.

    It is judged as the status it would have had: the one it tells, else the usual one of its code or
    type, else 500.
    """
    error = read_error(data)
    status = error.status or STATUS_OF.get(error.code) or STATUS_OF.get(error.type) or 500
    return _decide(status, error, None, None)


def _decide(status: int, error: ProviderError, headers: Headers | None, now_wall: float | None) -> Outcome:
    known = None if error else _BY_STATUS.get(status)
    if known is None:
        rule = next((rule for rule in TABLE if rule.matches(status, error)), TABLE[-1])
        known = Outcome(rule.verdict, rule.reason, None, rule.overload, rule.certain)
        if not error and 0 <= status <= 999:
            _BY_STATUS[status] = known
    if known.verdict is not Verdict.BUSY or headers is None:
        return known
    # When our own limits are filled up again says nothing of the provider's lack of capacity.
    wait_s = _told_wait(headers, now_wall) if known.overload else wait_of(headers, now_wall)
    if wait_s is None:
        return known
    wait_s = max(wait_s, WAIT_MIN_S)
    if known.overload:
        wait_s = min(wait_s, OVERLOAD_WAIT_MAX_S)
    return Outcome(known.verdict, known.reason, wait_s, known.overload, known.certain)


def missing_capability(body: bytes, traits: int) -> bytes:
    """Which of `CAPABILITIES` an error answer says is not there, b"" if that is none which a request needs.

    Args:
        traits: bits of `Trait`: of the request.
    """
    message = read_error(body).message
    for name, needed, phrases in CAPABILITIES:
        if traits & needed and any(phrase in message for phrase in phrases):
            return name
    return b""


def scopes_of(endpoint: bytes, traits: int) -> tuple[bytes, ...]:
    """What a model may be missing for: the endpoint, and the capabilities that a request needs."""
    return (endpoint, *(name for name, needed, _ in CAPABILITIES if traits & needed))


def table_text() -> str:
    """Return `TABLE` for people, one row a line: status, words, verdict, reason, may it have run."""
    lines = []
    for rule in TABLE:
        statuses = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in rule.statuses)
        words = sorted(rule.names) + [f"param={p}" for p in sorted(rule.params)]
        words += [f'"{phrase}"' for phrase in rule.phrases]
        notes = ("" if rule.certain else " may-have-run") + (" overload" if rule.overload else "")
        line = f"{statuses:<24} {rule.verdict.name.lower():<10} {rule.reason}{notes}"
        lines.append(line + ("  if " + " | ".join(words) if words else ""))
    return "\n".join(lines)


# --- The error object ---------------------------------------------------------------------------

# What a code or type inside a 200 would have been as a status.
STATUS_OF: dict[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limit_reached": 429,
    "slow_down": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
    "credit_balance_exhausted": 429,
    "insufficient_balance": 402,
    "insufficient_credits": 402,
    "billing_hard_limit_reached": 429,
    "billing_not_active": 429,
    "usage_limit_reached": 429,
    "usage_limit_exceeded": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "invalid_authentication": 401,
    "permission_error": 403,
    "unsupported_country_region_territory": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "context_length_exceeded": 400,
    "context_window_exceeded": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "notfounderror": 404,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "overloaded_error": 503,
    "engine_overloaded": 503,
    BROKEN_OFF: 503,
    "timeout": 504,
    "timeout_error": 504,
}

_NO_ERROR = ProviderError()
_SUCCEEDED = Outcome(Verdict.SUCCEEDED, "ok")

_FIELD = re.compile(rb'"(code|type|param|message)"\s*:\s*(?:"((?:[^"\\]|\\.){0,500})|(\d{3})\b)')


def read_error(body: bytes) -> ProviderError:
    """Return the error a body tells of, in any of the shapes providers use; never raises.

    ``{"error": {...}}``, ``{"error": "..."}``, ``[{"error": ...}]``, the fields on the top level, a
    failed Responses API object; a body cut short is searched for the fields.
    """
    body = body[:_ERROR_BYTES].strip()
    try:
        value = orjson.loads(body)
    except ValueError:
        return _search_error(body)
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return _NO_ERROR
    if is_broken_off(value):
        return ProviderError(code=BROKEN_OFF)
    outer = value
    response = value.get("response")
    if isinstance(response, dict) and not value.get("error"):
        value = response
    error = value.get("error")
    if isinstance(error, str):
        # {"error": "words"}: a name or a sentence, and who knows which.
        return ProviderError(code=error.lower()[:100], message=error.lower(), status=_status_in(outer))
    if isinstance(error, dict):
        return _error_from(error, outer)
    return _error_from(value, outer)


def _error_from(error: dict[str, Any], outer: dict[str, Any]) -> ProviderError:
    code = error.get("code")
    message = error.get("message") or error.get("detail") or error.get("error_msg") or ""
    return ProviderError(
        code=code.lower() if isinstance(code, str) else "",
        type=_text_of(error, "type"),
        param=_text_of(error, "param"),
        message=message.lower() if isinstance(message, str) else "",
        status=_status_in(error) or _status_in(outer),
    )


def _text_of(error: dict[str, Any], name: str) -> str:
    value = error.get(name)
    return value.lower() if isinstance(value, str) else ""


def _status_in(error: dict[str, Any]) -> int:
    for name in ("status", "status_code", "code"):
        value = error.get(name)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return 0


def _search_error(body: bytes) -> ProviderError:
    """The fields of an error object of which only the beginning is there; the first of each counts."""
    if body[:1] not in (b"{", b"["):
        return _NO_ERROR
    found: dict[str, str] = {}
    status = 0
    for name, text, number in _FIELD.findall(body[:_SEARCH_BYTES]):
        if number:
            status = status or int(number)
        else:
            found.setdefault(name.decode(), text.decode("utf-8", "replace").lower())
    return ProviderError(status=status if 400 <= status <= 599 else 0, **found)


# --- How long to wait ---------------------------------------------------------------------------

# The families of limits that are known to be told; a mapping is searched for others, too.
_FAMILIES = (
    b"requests",
    b"tokens",
    b"tokens_usage_based",
    b"input-images",
    b"input-tokens",
    b"output-tokens",
)
_RESET = b"x-ratelimit-reset-"
_REMAINING = b"x-ratelimit-remaining-"

_EPOCH_AFTER_S = 30 * 86400.0  # a larger number is a point in time, not a span
_EPOCH_MS_AFTER = 1e11  # and a still larger one is in milliseconds

_NUMBER = re.compile(rb"\d{1,18}(?:\.\d{0,18})?")
_SPAN = re.compile(rb"(\d{1,15}(?:\.\d{0,15})?)(h|ms|us|\xc2\xb5s|ns|m|s)")
_UNIT_S = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 1e-3, b"us": 1e-6, b"\xc2\xb5s": 1e-6, b"ns": 1e-9}

# Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT; Sun Nov  6 08:49:37 1994
_DATE = re.compile(
    rb"[A-Za-z]{3,9}, *(\d{1,2})[ -]([A-Za-z]{3})[ -](\d{4}|\d\d) +(\d\d):(\d\d):(\d\d)"
    rb"(?: *(?:GMT|UTC|\+0000))?"
)
_ASCTIME = re.compile(rb"[A-Za-z]{3} +([A-Za-z]{3}) +(\d{1,2}) +(\d\d):(\d\d):(\d\d) +(\d{4})")
_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def wait_of(headers: Headers, now_wall: float | None = None) -> float | None:
    """Return how many seconds the provider asks to wait; None when it does not say so understandably.

    In this order: ``retry-after-ms``; ``Retry-After`` as seconds or date; ``x-ratelimit-reset`` as
    seconds or Unix time; the shortest of the ``x-ratelimit-reset-*`` spans of which nothing remains,
    else the shortest of those that do not tell what remains: a limit that is not reached is not the
    one that was. Zero, negative values and garbage say nothing. Never raises for what a provider may
    send. The result is not clamped.
    """
    wait_s = _told_wait(headers, now_wall)
    if wait_s is not None:
        return wait_s
    if isinstance(headers, Mapping):
        fields = _lower(headers)
        resets = tuple(name[len(_RESET) :] for name in fields if name.startswith(_RESET))
        return _reset_wait(fields.get, resets, now_wall)
    return _reset_wait(headers, _FAMILIES, now_wall)


def _lower(headers: Mapping[Any, Any]) -> dict[bytes, bytes]:
    return {_as_bytes(name).lower(): _as_bytes(value) for name, value in headers.items()}


def _told_wait(headers: Headers, now_wall: float | None) -> float | None:
    """The wait that is meant for this very answer."""
    get = _lower(headers).get if isinstance(headers, Mapping) else headers
    wait_ms = _number(get(b"retry-after-ms"))
    if wait_ms:
        return wait_ms / 1000.0
    text = get(b"retry-after")
    if text:
        wait_s = _number(text)
        wait_s = _until_date(text, now_wall) if wait_s is None else _until(wait_s, now_wall)
        if wait_s:
            return wait_s
    return None


def _reset_wait(
    get: Callable[[bytes], bytes | None], families: tuple[bytes, ...], now_wall: float | None
) -> float | None:
    """When the limits that were reached are filled up again."""
    for name in (b"x-ratelimit-reset", b"ratelimit-reset"):
        text = get(name)
        if text:
            reset = _number(text)
            wait_s = _span(text) if reset is None else _until(reset, now_wall)
            if wait_s:
                return wait_s
    shortest = None
    shortest_spent = None
    for family in families:
        text = get(_RESET + family)
        if not text:
            continue
        reset = _number(text)
        wait_s = _span(text) if reset is None else _until(reset, now_wall)
        if not wait_s:
            continue
        remaining = _number(get(_REMAINING + family))
        if remaining is None and (shortest is None or wait_s < shortest):
            shortest = wait_s
        elif remaining == 0.0 and (shortest_spent is None or wait_s < shortest_spent):
            shortest_spent = wait_s
    return shortest_spent or shortest


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def _number(text: bytes | None) -> float | None:
    text = text.strip() if text else b""
    return float(text) if _NUMBER.fullmatch(text) else None


def _until(value: float, now_wall: float | None) -> float | None:
    """Seconds from now of a span or a Unix time; None when that is not in the future."""
    if value > _EPOCH_AFTER_S:
        if value > _EPOCH_MS_AFTER:
            value /= 1000.0
        if now_wall is None:
            return None
        value -= now_wall
    return value if value > 0 else None


def _span(text: bytes) -> float | None:
    """A span as Go prints it: 1s, 12ms, 6m0s, 1h2m3.5s."""
    text = text.strip()
    total = 0.0
    i = 0
    while i < len(text):
        part = _SPAN.match(text, i)
        if part is None:
            return None
        total += float(part[1]) * _UNIT_S[part[2]]
        i = part.end()
    return total if total > 0 else None


def _until_date(text: bytes, now_wall: float | None) -> float | None:
    """Seconds until an HTTP date (all three forms of RFC 9110 §5.6.7)."""
    if now_wall is None:
        return None
    text = text.strip()
    match = _DATE.fullmatch(text)
    if match:
        day, month, year, hour, minute, second = match.groups()
    else:
        match = _ASCTIME.fullmatch(text)
        if match is None:
            return None
        month, day, hour, minute, second, year = match.groups()
    if month.lower() not in _MONTHS:
        return None
    full_year = int(year)
    if len(year) == 2:
        # Two digits that would be more than 50 years ahead are of the last century.
        full_year += 2000 if full_year < 70 else 1900
    try:
        date = datetime(
            full_year,
            _MONTHS.index(month.lower()) + 1,
            int(day),
            int(hour),
            int(minute),
            min(int(second), 59),  # a leap second
            tzinfo=UTC,
        )
    except ValueError:
        return None
    wait_s = date.timestamp() - now_wall
    return wait_s if wait_s > 0 else None
