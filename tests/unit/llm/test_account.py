"""What the answers of the free endpoints say of an account."""

from __future__ import annotations

import orjson
import pytest

from fastgw.llm.account import Finding, Standing, read_balance, read_models, worse_of


def listed(*ids: object, **fields: object) -> bytes:
    return orjson.dumps({"object": "list", "data": [{"id": id} for id in ids], **fields})


def error(message: str = "", code: str = "") -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}})


def test_a_list_with_every_wanted_model_is_good() -> None:
    assert read_models(200, listed("a", "b"), ()) == Finding(Standing.GOOD)
    assert read_models(200, listed("a", "b"), ("b",)) == Finding(Standing.GOOD)
    assert read_models(200, listed("models/a"), ("a",)) == Finding(Standing.GOOD)


def test_models_that_are_not_offered_are_named_in_the_order_asked_for() -> None:
    finding = read_models(200, listed("deepseek-flash"), ("deepseek-chat", "deepseek-flash", "x"))
    assert (finding.standing, finding.missing) == (Standing.MODEL_MISSING, ("deepseek-chat", "x"))


@pytest.mark.parametrize("body", [listed("a", has_more=True), listed()])
def test_a_list_that_is_not_whole_says_nothing_of_the_models(body: bytes) -> None:
    assert read_models(200, body, ("b",)) == Finding(Standing.GOOD)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": {}}'])
def test_an_answer_that_is_no_list_says_nothing(body: bytes) -> None:
    assert read_models(200, body, ("a",)).standing is Standing.UNKNOWN


def test_entries_of_a_list_that_are_no_models_are_passed_over() -> None:
    body = orjson.dumps({"data": [None, 7, {"id": 7}, {"id": "a"}]})
    assert read_models(200, body, ("a",)) == Finding(Standing.GOOD)


@pytest.mark.parametrize(
    ("status", "body", "standing"),
    [
        (401, b"", Standing.BAD_KEY),
        (401, error("Incorrect API key provided: sk-x***.", "invalid_api_key"), Standing.BAD_KEY),
        (
            401,
            error("Authentication Fails, Your key is invalid", "invalid_request_error"),
            Standing.BAD_KEY,
        ),
        (403, error("deactivated", "account_deactivated"), Standing.BAD_KEY),
        (402, error("Insufficient Balance"), Standing.NO_BALANCE),
        (429, error("You exceeded your current quota", "insufficient_quota"), Standing.NO_BALANCE),
        (429, error("slow down", "rate_limit_exceeded"), Standing.UNKNOWN),
        (403, b"", Standing.UNKNOWN),
        (404, error("Invalid URL"), Standing.UNKNOWN),
        (301, b"", Standing.UNKNOWN),
        (500, b"", Standing.UNREACHABLE),
        (503, error("overloaded", "server_is_overloaded"), Standing.UNREACHABLE),
    ],
)
def test_what_a_refusal_says(status: int, body: bytes, standing: Standing) -> None:
    assert read_models(status, body, ("a",)).standing is standing
    assert read_balance(status, body).standing is standing


def test_a_key_that_may_not_list_models_is_no_bad_key() -> None:
    message = "You have insufficient permissions for this operation. Missing scopes: api.model.read."
    for status in (401, 403):
        assert read_models(status, error(message), ()).standing is Standing.UNKNOWN


def test_a_finding_repeats_nothing_of_what_the_provider_said() -> None:
    finding = read_models(401, error("Incorrect API key provided: sk-secret", "invalid_api_key"), ())
    assert "secret" not in repr(finding)


def test_the_balance_decides_whether_the_account_can_pay() -> None:
    assert read_balance(200, b'{"is_available": true}') == Finding(Standing.GOOD)
    assert read_balance(200, b'{"is_available": false}').standing is Standing.NO_BALANCE
    for body in (b"", b"{}", b'{"is_available": 1}', b"[]"):
        assert read_balance(200, body).standing is Standing.UNKNOWN


def test_of_two_findings_the_graver_one_counts() -> None:
    good, empty = Finding(Standing.GOOD), Finding(Standing.NO_BALANCE)
    missing, unknown = Finding(Standing.MODEL_MISSING, ("a",)), Finding(Standing.UNKNOWN)
    assert worse_of(good, empty) is empty
    assert worse_of(missing, good) is missing
    assert worse_of(missing, empty) is empty
    assert worse_of(good, unknown) is good
    assert worse_of(Finding(Standing.UNREACHABLE), good).standing is Standing.UNREACHABLE
