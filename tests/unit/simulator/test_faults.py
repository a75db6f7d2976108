"""Faults are checked when they are made, and survive the way through JSON."""

import dataclasses

import orjson
import pytest

from fastgw.simulator.certificates import VARIANTS
from fastgw.simulator.faults import _TYPES, PARAMETERS, Fault, FaultKind


def test_every_kind_says_which_parameters_mean_something() -> None:
    names = {field.name for field in dataclasses.fields(Fault)}
    assert set(PARAMETERS) == set(FaultKind)
    assert all(parameters <= names for parameters in PARAMETERS.values())
    assert set(_TYPES) | {"kind", "headers"} == names


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "refuse"},
        {"kind": "bad_certificate", "variant": "expired", "probability": 0.5},
        {"kind": "status", "status": 429, "headers": {"Retry-After": "3"}, "paths": "api"},
        {"kind": "reset_inside", "after": 0, "how": "clean", "count": 2, "stream": True},
        {"kind": "stall", "after_bytes": 7, "duration_s": 0.5, "match": "hello", "reused": False},
        {"kind": "raw", "body": "HTTP/9.9 \u00ff", "how": "hang", "delay_s": 1},
    ],
)
def test_a_fault_goes_through_json_unchanged(value: dict[str, object]) -> None:
    fault = Fault.from_json(value)
    assert fault.to_json() == value
    assert Fault.from_json(orjson.loads(orjson.dumps(fault.to_json()))) == fault


def test_repeated_headers_are_kept_as_pairs() -> None:
    fault = Fault.from_json({"kind": "status", "headers": [["set-cookie", "a"], ["set-cookie", "b"]]})
    assert fault.headers == (("set-cookie", "a"), ("set-cookie", "b"))
    assert Fault.from_json(fault.to_json()) == fault


def test_a_json_body_may_be_written_as_an_object() -> None:
    assert (
        Fault.from_json({"kind": "status", "body": {"error": {"code": "x"}}}).body == '{"error":{"code":"x"}}'
    )


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "a fault is an object"),
        ({}, "kind: missing"),
        ({"kind": "sulk"}, "kind: unknown fault 'sulk'"),
        ({"kind": "refuse", "colour": 1}, "unknown field 'colour'"),
        ({"kind": "refuse", "status": 503}, "status: means nothing for refuse"),
        ({"kind": "refuse", "paths": "api"}, "paths: means nothing for refuse"),
        ({"kind": "refuse", "count": 1}, "neither count nor probability"),
        ({"kind": "status", "status": 100}, "status: 100"),
        ({"kind": "status", "status": "503"}, "status: expected int"),
        ({"kind": "status", "status": True}, "status: expected int"),
        ({"kind": "status", "headers": {"a": "b\r\nc: d"}}, "headers: 'a' is not a header"),
        ({"kind": "status", "headers": {"a b": "c"}}, "headers: 'a b' is not a header"),
        ({"kind": "status", "headers": ["a"]}, "headers: expected"),
        ({"kind": "status", "early": True, "match": "x"}, "early: match and stream"),
        ({"kind": "bad_certificate", "variant": "ugly"}, "variant: 'ugly'"),
        ({"kind": "reset_inside", "how": "hang"}, "how: 'hang' is not one of rst, fin, clean"),
        ({"kind": "stall", "how": "rst"}, "how: means nothing for stall"),
        ({"kind": "stall", "after": -1}, "after: less than 0"),
        ({"kind": "stall", "count": 0}, "count: less than 1"),
        ({"kind": "stall", "paths": "some"}, "paths: 'some'"),
        ({"kind": "stall", "probability": 1.5}, "probability: not between 0 and 1"),
        ({"kind": "stall", "probability": float("nan")}, "probability: not between 0 and 1"),
        ({"kind": "slow_head", "interval_s": 0}, "interval_s: not between"),
        ({"kind": "stall", "duration_s": -1}, "duration_s: not between"),
        ({"kind": "close_after", "after": 0}, "close_after needs at least 1"),
        ({"kind": "raw"}, "body: raw needs the bytes"),
        ({"kind": "raw", "body": "\u20ac"}, "body: raw takes Latin-1"),
    ],
)
def test_a_mistake_in_a_fault_is_named(value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        Fault.from_json(value)


@pytest.mark.parametrize(
    ("conditions", "fits_root", "fits_stream", "fits_second"),
    [
        ({}, True, True, True),
        ({"paths": "api"}, False, True, True),
        ({"paths": "root"}, True, False, False),
        ({"only_path": "/v1/x"}, False, True, True),
        ({"stream": True}, False, True, False),
        ({"stream": False}, True, False, True),
        ({"reused": True}, False, False, True),
        ({"reused": False}, True, True, False),
        ({"match": "needle"}, False, True, False),
    ],
)
def test_a_fault_fits_the_requests_it_is_for(
    conditions: dict[str, object], fits_root: bool, fits_stream: bool, fits_second: bool
) -> None:
    fault = Fault.from_json({"kind": "status", **conditions})
    assert fault.fits("/", b"", is_stream=False, is_reused=False) is fits_root
    assert fault.fits("/v1/x", b"a needle", is_stream=True, is_reused=False) is fits_stream
    assert fault.fits("/v1/x", b"", is_stream=False, is_reused=True) is fits_second


def test_only_the_three_kinds_of_the_connection_strike_before_a_request() -> None:
    of_connection = {
        kind.value for kind in FaultKind if kind is not FaultKind.RAW and Fault(kind).is_of_connection
    }
    assert of_connection == {"refuse", "bad_certificate", "handshake_hang"}
    assert VARIANTS[0] == Fault(FaultKind.BAD_CERTIFICATE).variant
