"""Texts made fit to be seen: a net below the rule that no key is ever put into one.

It knows the secrets it was told of, in the forms in which they turn up, and what keys look like.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

from .secret import MASK, Secret

MIN_CHARS: Final = 8  # a shorter value stands in too many innocent words

# How the providers' keys begin, and a few others' that lie beside them.
_BEGIN = r"\b(?:sk-|pk-|rk-|xai-|pplx-|gsk_|hf_|ghp_|AIza|xox[a-z]-)"
_WORD = "[A-Za-z0-9_-]"
# Whole, or with its middle left out, as providers quote keys. Either way the match takes in the whole
# word, so that no text takes more time than it is long.
_KEY = rf"({_BEGIN})(?:{_WORD}*(?:\*{{2,}}|\.{{2,}}|…){_WORD}*|{_WORD}{{6,}})"
_CREDENTIAL = r"\b((?:bearer|basic)(?:\s+|%20|\+))[A-Za-z0-9_.~+/=-]{8,}"
_SHAPES = [re.compile(_KEY, re.ASCII), re.compile(_CREDENTIAL, re.ASCII | re.IGNORECASE)]
_BODY_KEY = re.compile(_KEY.encode())
# Stricter, for values of which little is lost when they are not shown.
_SUSPICIOUS = re.compile(
    rf"{_BEGIN}{_WORD}{{4}}|\b(?:bearer|basic)\s|[A-Za-z0-9+/_=-]{{32}}", re.ASCII | re.IGNORECASE
)


def may_be_key(text: str) -> bool:
    """Could this be a key, or have one in it? Says yes to any long word."""
    return _SUSPICIOUS.search(text) is not None


class Redactor:
    """Masks secrets in what others will see.

    The time is one search for each secret and text: for what is said rarely, not for each request.

    Args:
        secrets: what to mask wherever it stands; those below ``MIN_CHARS`` are left alone.
        by_shape: mask also what looks like a key, and in a text what looks like a credential.
    """

    __slots__ = ("_forms", "by_shape")

    def __init__(self, secrets: Iterable[Secret] = (), *, by_shape: bool = True) -> None:
        self.by_shape = by_shape
        self._forms: list[Secret] = []
        self.add(secrets)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"

    def add(self, secrets: Iterable[Secret]) -> None:
        """Know more secrets."""
        forms = {form.reveal() for form in self._forms}
        for secret in secrets:
            forms |= _forms_of(secret.reveal())
        # The longer first: one may stand in another.
        self._forms = [Secret(form) for form in sorted(forms, key=len, reverse=True)]

    def mask(self, text: str) -> str:
        """The text with a mark in the place of each secret."""
        for form in self._forms:
            if form.reveal() in text:
                text = text.replace(form.reveal(), MASK)
        if self.by_shape:
            for shape in _SHAPES:
                text = shape.sub(rf"\1{MASK}", text)
        return text

    def mask_body(self, body: bytes) -> bytes:
        """A body with stars in the place of each secret: it stays as long as it was."""
        for form in self._forms:
            data = _encoded(form)
            if data in body:
                body = body.replace(data, b"*" * len(data))
        return _BODY_KEY.sub(_stars, body) if self.by_shape else body

    def unfinished(self, body: bytes) -> int:
        """How many bytes at the end of a part of a body may be the beginning of a known secret."""
        return max((_overlap(body, _encoded(form)) for form in self._forms), default=0)


def _encoded(form: Secret) -> bytes:
    return form.reveal().encode("utf-8", "surrogatepass")


def _overlap(body: bytes, data: bytes) -> int:
    """The size of the longest end of ``body`` that ``data`` begins with, and goes on behind."""
    at = body.find(data[:1], max(0, len(body) - len(data) + 1))
    while at >= 0 and not data.startswith(body[at:]):
        at = body.find(data[:1], at + 1)
    return len(body) - at if at >= 0 else 0


def _forms_of(value: str) -> set[str]:
    """A secret as it may stand in a text: as it is, in a URL, JSON or HTML; with and without its scheme."""
    found = set()
    for part in (value, value.partition(" ")[2].strip()):
        if len(part) >= MIN_CHARS:
            found |= {
                part,
                html.escape(part),
                html.escape(part, quote=False),
                *_in_url(part),
                *_in_json(part),
            }
    return found


def _in_url(text: str) -> set[str]:
    found = {quote(text, safe=safe, errors="replace") for safe in ("", "/")}
    found.add(quote_plus(text, errors="replace"))
    return found | {re.sub("%..", lambda escape: escape[0].lower(), form) for form in found}


def _in_json(text: str) -> set[str]:
    """As Python, PHP (slashes), Go and .NET (what HTML could mistake) write it."""
    found = {json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    found |= {form.replace("/", "\\/") for form in found}
    found |= {re.sub("[&<>]", lambda of: f"\\u{ord(of[0]):04x}", form) for form in found}
    # A quote that is escaped already becomes its number, too.
    return found | {re.sub("\\\\\"|[&<>+'`]", lambda of: f"\\u{ord(of[0][-1]):04X}", form) for form in found}


def _stars(match: re.Match[bytes]) -> bytes:
    begin = match[1]
    return begin + b"*" * (len(match[0]) - len(begin))


PATTERNS: Final = Redactor()  # for whom no secret was told
