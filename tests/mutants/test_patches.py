"""The deliberate breakages still fit the code, and the tests that must find them exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from checkout_copy import apply_patch
from mutants.patches import Mutant, all_mutants
from source_graph import ROOT

MUTANTS = all_mutants()
each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


@cache
def functions_of(path: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_there_are_twelve() -> None:
    assert len(MUTANTS) >= 12


@pytest.mark.needs("git")
@each_mutant
def test_a_breakage_still_applies(mutant: Mutant) -> None:
    problem = apply_patch(mutant.path, ROOT, "--check")
    assert not problem, f"{mutant.path.name} was made for other code; make it anew:\n{problem}"


@each_mutant
def test_a_breakage_names_tests_that_exist(mutant: Mutant) -> None:
    assert mutant.says.endswith(".") and mutant.tests
    assert mutant.files and all(name.startswith("fastgw/") for name in mutant.files)
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in functions_of(ROOT / path), test
