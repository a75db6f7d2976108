"""An attempt's share of the time that is left."""

from fastgw.balancing.deadlines import Deadlines, attempt_deadline, patience


def test_all_but_the_last_attempt_get_half_of_the_rest() -> None:
    assert attempt_deadline(100.0, 200.0, False) == 150.0
    assert attempt_deadline(150.0, 200.0, False) == 175.0
    assert attempt_deadline(175.0, 200.0, True) == 200.0


def test_no_attempt_outlives_the_whole() -> None:
    for now in (0.0, 99.999, 100.0):
        assert now <= attempt_deadline(now, 100.0, False) <= 100.0


def test_the_defaults_leave_room_for_each_other() -> None:
    limits = Deadlines()
    assert limits.connect_s < limits.head_stream_s < limits.first_content_stream_s < limits.total_s
    assert limits.head_s <= limits.first_content_s < limits.total_s
    assert limits.progress_s <= limits.idle_s


def test_a_caller_says_how_long_it_waits() -> None:
    assert patience(b"600") == 599.0
    assert patience(b"10.0") == 9.0
    assert patience(b"1") == 0.9
    for nothing in (b"", b"soon", b"0", b"-5", b"nan", b"1,5"):
        assert patience(nothing) == 0.0
