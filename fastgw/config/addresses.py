"""Host names, listening addresses and ``connect_to`` entries: text in, checked parts out.

The same functions serve the file and the command line. All raise ValueError with a message that
says what was expected; none asks a resolver.
"""

from __future__ import annotations

import ipaddress
import re

HOST_PATTERN = (
    r"^(?:[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63}){0,40}\.?"
    r"|\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,44})$"
)
_HOST = re.compile(HOST_PATTERN.replace("$", r"\Z"), re.ASCII)
_DIGITS = re.compile(r"[0-9.]+", re.ASCII)


def parse_host(text: str) -> str:
    """A host name or IP address in its usual form: lower case, IPv6 without brackets."""
    if not _HOST.match(text) or len(text) > 253:
        raise ValueError("expected a host name or IP address")
    host = text.lower()
    if ":" in host or _DIGITS.fullmatch(host):
        try:
            return str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            raise ValueError("expected an IP address") from None
    if host.startswith("["):
        raise ValueError("expected an IPv6 address in the brackets")
    return host


def is_ip(host: str) -> bool:
    """Is this result of ``parse_host`` an address rather than a name?"""
    return ":" in host or bool(_DIGITS.fullmatch(host))


def with_port(host: str, port: int) -> str:
    """``host:port``, with brackets where IPv6 needs them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT``, ``:PORT`` (all addresses), ``unix:PATH`` or ``fd:NUMBER``.

    The last two come back whole, with port 0. Port 0 of a host lets the system choose.
    """
    if text.startswith("unix:"):
        if len(text) == len("unix:") or "\0" in text:
            raise ValueError("expected unix:PATH")
        return text, 0
    if text.startswith("fd:"):
        if not re.fullmatch(r"fd:[0-9]{1,6}", text):
            raise ValueError("expected fd:NUMBER")
        return text, 0
    host, colon, port = text.rpartition(":")
    if not colon or not _is_port(port):
        raise ValueError("expected HOST:PORT or unix:PATH")
    if not host:
        return "0.0.0.0", int(port)
    if ":" in host and not host.startswith("["):
        raise ValueError("expected [IPv6]:PORT")
    return parse_host(host), int(port)


def is_loopback(host: str) -> bool:
    """Can only this machine reach a listener on this host (a first part of ``parse_listen``)?"""
    if host.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_connect_to(text: str) -> tuple[str, int, str, int]:
    """curl's ``HOST:PORT:HOST2:PORT2``. An empty HOST or PORT matches any ("" and 0);
    an empty HOST2 or PORT2 keeps what the request has.
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]*):(\[[^\]]*\]|[^:\[\]]*):([0-9]*)", text, re.ASCII)
    if match is None:
        raise ValueError("expected HOST:PORT:HOST2:PORT2")
    host, port, host2, port2 = match.groups()
    for number in (port, port2):
        if number and not _is_port(number):
            raise ValueError("a port is a number from 1 to 65535")
    return (
        parse_host(host) if host else "",
        int(port or 0),
        parse_host(host2) if host2 else "",
        int(port2 or 0),
    )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535
