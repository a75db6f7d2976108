"""Addresses as text: what is accepted, in which form it comes back."""

from __future__ import annotations

import pytest

from fastgw.config import is_loopback, parse_connect_to, parse_listen
from fastgw.config.addresses import is_ip, parse_host, with_port


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("API.example.COM", "api.example.com"),
        ("example.com.", "example.com."),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::FFFF", "::ffff"),
        ("a", "a"),
        ("x_y-z", "x_y-z"),
        ("1password.com", "1password.com"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a/b", "a:1", "http://a", "1.2.3", "256.0.0.1", "[a]", "[::1", "a..b", "é", "a\n", "-a", "*"],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError):
        parse_host(text)


def test_long_texts_are_judged_at_once() -> None:
    for text in ("a." * 100_000, "a" * 100_000, "a-" * 100_000 + "!", ":" * 100_000):
        with pytest.raises(ValueError):
            parse_host(text)


def test_addresses_and_names_are_told_apart() -> None:
    assert [is_ip(host) for host in ("::1", "10.0.0.1", "a.b", "localhost")] == [True, True, False, False]
    assert (with_port("::1", 1), with_port("a", 2)) == ("[::1]:1", "a:2")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9080", ("127.0.0.1", 9080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("fd:3", ("fd:3", 0)),
        ("unix:/run/x.sock", ("unix:/run/x.sock", 0)),
    ],
)
def test_listening_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "a",
        "a:",
        "a:x",
        "a:65536",
        "a:-1",
        "::1:80",
        "unix:",
        "a:٣",
        "http://a:1",
        "a:1\n",
        "*:80",
        "fd:",
        "fd:x",
    ],
)
def test_what_is_no_listening_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("unix:/x", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("host.example", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("api.openai.com:443:127.0.0.1:8443", ("api.openai.com", 443, "127.0.0.1", 8443)),
        ("A:443:[::1]:1", ("a", 443, "::1", 1)),
        ("::b:2", ("", 0, "b", 2)),
        ("a:443::", ("a", 443, "", 0)),
    ],
)
def test_connect_to(text: str, entry: tuple[str, int, str, int]) -> None:
    assert parse_connect_to(text) == entry


@pytest.mark.parametrize(
    "text", ["", "a", "a:1", "a:1:b", "a:1:b:99999", "a:x:b:1", "a b:1:c:2", "a:1:b:2:c", "[x]:1:b:2"]
)
def test_what_is_no_connect_to(text: str) -> None:
    with pytest.raises(ValueError):
        parse_connect_to(text)
