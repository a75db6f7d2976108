"""Addresses on the command line: one spelling for each, or what was expected."""

import pytest

from fastgw.cli.options import admin_address, canonical_address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:9080", "127.0.0.1:9080"),
        ("localhost:0", "localhost:0"),
        (":9080", "0.0.0.0:9080"),
        ("[::1]:9080", "[::1]:9080"),
        ("[0:0:0:0:0:0:0:1]:9080", "[::1]:9080"),
        ("unix:/run/fastgw.sock", "unix:/run/fastgw.sock"),
        ("fd:3", "fd:3"),
    ],
)
def test_an_address_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical
    assert canonical_address(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "9080", "127.0.0.1", "::1:9080", "127.0.0.1:-1", "127.0.0.1:65536", "a b:1", "unix:", "fd:-1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        canonical_address(text)


def test_the_admin_port_can_be_off() -> None:
    assert admin_address("off") == "off"
    assert admin_address(":1") == "0.0.0.0:1"
