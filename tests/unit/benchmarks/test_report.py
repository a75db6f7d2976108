"""Tables and files."""

import json
from pathlib import Path

import pytest

from benchmarks.figures import Metric, Outcome
from benchmarks.report import number, outcome_to_markdown, read, rows_to_markdown, to_markdown, write

TITLES = {"fastgw": "fastgw", "nginx": "nginx", "envoy": "Envoy"}


def outcome() -> Outcome:
    found = Outcome(
        "plain", "Plain POST", (Metric("cpu_us", "CPU", "µs"), Metric("p50_us", "p50", "µs", 0)), "A note."
    )
    for turn, (ours, theirs) in enumerate([(9.0, 10.0), (8.0, 10.0), (10.0, 10.0)]):
        found.add("fastgw", turn, {"cpu_us": ours, "p50_us": 1234.0})
        found.add("nginx", turn, {"cpu_us": theirs})
    found.skipped["envoy"] = "envoy is not installed (make bench-peers)"
    return found


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert number(9.04, 1) == "9.0"
    assert number(80614.3, 2) == "80 614"
    assert number(None, 1) == "-"


def test_columns_line_up() -> None:
    table = rows_to_markdown(["", "CPU"], [["fastgw", "9.0"], ["C relay (floor)", "12.25"]])
    assert table.splitlines() == [
        "|                 |   CPU |",
        "|-----------------|------:|",
        "| fastgw          |   9.0 |",
        "| C relay (floor) | 12.25 |",
    ]


def test_workload_is_shown_with_median_range_and_ratio() -> None:
    assert outcome_to_markdown(outcome(), TITLES).splitlines() == [
        "### Plain POST",
        "",
        "A note.",
        "",
        "|        |           CPU, µs | ratio to nginx |              p50, µs |",
        "|--------|------------------:|---------------:|---------------------:|",
        "| fastgw |   9.0 (8.0..10.0) |           0.90 | 1 234 (1 234..1 234) |",
        "| nginx  | 10.0 (10.0..10.0) |           1.00 |                    - |",
        "",
        "- Envoy was skipped: envoy is not installed (make bench-peers)",
    ]


def test_workload_nothing_of_which_is_known_has_no_table() -> None:
    found = Outcome("plain", "Plain POST", (Metric("cpu_us", "CPU", "µs"),))
    assert outcome_to_markdown(found, TITLES) == "### Plain POST"


def test_peer_of_which_nothing_that_is_shown_is_known_has_no_row() -> None:
    found = outcome()
    found.add("direct", 0, {"per_second": 1.0})
    assert "direct" not in outcome_to_markdown(found, TITLES)


def test_ratio_is_left_out_where_it_means_nothing() -> None:
    found = outcome()
    found.compares = False
    assert "ratio" not in outcome_to_markdown(found, TITLES)


def test_report_begins_with_the_machine() -> None:
    text = to_markdown({"processor": "a 2-core one"}, {"plain": outcome()}, TITLES, ["cpu.svg"])
    assert text.index("processor: a 2-core one") < text.index("| metric") < text.index("### Plain POST")
    assert "![cpu](cpu.svg)" in text
    assert "| CPU/request, plain, against nginx" in text


def test_files_are_written(tmp_path: Path) -> None:
    write(tmp_path / "results", {"processor": "x"}, {"plain": outcome()}, TITLES)
    assert (tmp_path / "results" / "report.md").read_text().endswith("\n")
    found = json.loads((tmp_path / "results" / "report.json").read_text())
    assert found["workloads"][0]["peers"]["fastgw"]["cpu_us"]["ratio_to_nginx"] == 0.9
    assert found["targets"][0] == {
        "metric": "CPU/request, plain, against nginx",
        "unit": "x",
        "must": 1.0,
        "aim": 0.9,
        "measured": 0.9,
        "verdict": "aim",
    }


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    found = outcome()
    found.compares = False
    write(tmp_path, {"processor": "x"}, {"plain": found}, TITLES)
    assert read(tmp_path) == ({"processor": "x"}, {"plain": found})


@pytest.mark.parametrize("text", ["", "{}", '{"machine": {}, "workloads": [{"workload": "plain"}]}'])
def test_report_of_another_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError):
        read(tmp_path)


def test_row_without_a_must_is_empty_there() -> None:
    found = Outcome("selection", "Selection", (Metric("cython_attempt", "attempt", "ns", 0),))
    found.add("10 nodes", 0, {"cython_attempt": 44.0})
    row = next(line for line in to_markdown({}, {"selection": found}, {}).splitlines() if "44 ns" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["", "", "44 ns", "-"]
