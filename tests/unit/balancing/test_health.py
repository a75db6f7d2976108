"""The policy as values."""

import dataclasses

import pytest

from fastgw.balancing.health import HealthPolicy, Thresholds


def test_defaults_fail_over_quickly_and_come_back_within_seconds() -> None:
    policy = HealthPolicy()
    assert policy.passive == Thresholds(successes=1, http_failures=5, tcp_failures=5, timeouts=5)
    assert policy.active is None
    assert (policy.ejection_s, policy.ejection_max_s) == (1.0, 4.0)
    # The longest anybody waits for a node that is well again: the longest term, jittered.
    assert policy.ejection_max_s * (1 + policy.ejection_jitter) < 5.0
    assert policy.overload_default_s * (1 + policy.ejection_jitter) < 5.0
    assert policy.trial_lease_s < 5.0


def test_apisix_policy_shares_counters_and_waits_for_reports() -> None:
    policy = HealthPolicy.apisix(Thresholds(1, 3, 2, 7), Thresholds(2, 5, 2, 3))
    assert (policy.trials, policy.panic, policy.heal_by_probe_only_after_trial) == (False, "all", False)
    assert (policy.eject_on_connect_failure, policy.rate_percent) == (False, 0)
    assert HealthPolicy.apisix().passive is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"ejection_s": -1.0},
        {"ejection_jitter": 1.0},
        {"ejection_jitter": -0.1},
        {"forbidden_needed": 0},
        {"panic": "never"},
        {"panic_in_flight": -1},
    ],
)
def test_policy_refuses_values_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HealthPolicy(**wrong)


def test_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match="timeouts"):
        Thresholds(timeouts=-1)


def test_policy_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HealthPolicy().panic = "all"  # type: ignore[misc]
