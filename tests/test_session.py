"""The test session watches itself: old builds, skips in CI, lost tasks and silent loops are failures."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from build_guard import unfit_extensions
from source_graph import ROOT

SO = ".cpython-00-none.so"


# --- The guard against old builds -------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, built a moment after it was written."""
    monkeypatch.setattr("importlib.machinery.EXTENSION_SUFFIXES", [SO])
    files = {
        "setup.py": 'COMPILED = (\n    "fastgw/_core.pyx",\n    "fastgw/wire/pool.py",\n)\n',
        "fastgw/_core.pyx": "from libc.string cimport memchr\n",
        "fastgw/_core.pxd": "cdef class Node:\n    pass\n",
        "fastgw/wire/pool.py": "class Pool:\n    pass\n",
        "fastgw/wire/pool.pxd": "from .events cimport Events\n",
        "fastgw/wire/events.pxd": "from fastgw._core cimport Node\n",
        "fastgw/wire/tls.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1000, 1000))
    for name in ("fastgw/_core", "fastgw/wire/pool"):
        (tmp_path / f"{name}{SO}").touch()
        os.utime(tmp_path / f"{name}{SO}", (2000, 2000))
    return tmp_path


@pytest.mark.parametrize("is_pure", [False, True])
def test_current_build_is_accepted(tree: Path, is_pure: bool) -> None:
    assert unfit_extensions(tree, is_pure=is_pure) == []


@pytest.mark.parametrize("name", ["fastgw/wire/pool.py", "fastgw/wire/pool.pxd", "fastgw/wire/events.pxd"])
def test_changed_source_is_refused_until_it_is_built(tree: Path, name: str) -> None:
    os.utime(tree / name, (3000, 3000))
    assert unfit_extensions(tree, is_pure=False) == [f"fastgw/wire/pool.py was built before {name} changed"]
    assert unfit_extensions(tree, is_pure=True) == []
    os.utime(tree / f"fastgw/wire/pool{SO}", (4000, 4000))
    assert unfit_extensions(tree, is_pure=False) == []


def test_changed_struct_makes_every_module_that_uses_it_old(tree: Path) -> None:
    os.utime(tree / "fastgw/_core.pxd", (3000, 3000))
    assert unfit_extensions(tree, is_pure=False) == [
        "fastgw/_core.pyx was built before fastgw/_core.pxd changed",
        "fastgw/wire/pool.py was built before fastgw/_core.pxd changed",
    ]
    assert unfit_extensions(tree, is_pure=True) == [
        "fastgw/_core.pyx was built before fastgw/_core.pxd changed"
    ]


def test_module_that_was_never_built_is_refused(tree: Path) -> None:
    (tree / f"fastgw/wire/pool{SO}").unlink()
    assert unfit_extensions(tree, is_pure=False) == ["fastgw/wire/pool.py is not built"]


def test_build_of_a_module_that_is_no_longer_compiled_is_refused(tree: Path) -> None:
    (tree / f"fastgw/wire/tls{SO}").touch()
    assert unfit_extensions(tree, is_pure=False) == [f"fastgw/wire/tls{SO} is not among COMPILED of setup.py"]


# --- What else it watches, in a session of its own --------------------------------------------


def outcomes(tmp_path: Path, source: str, **environment: str) -> dict[str, str]:
    """Run a test file under our conftest; the outcome of each of its tests by name."""
    path = tmp_path / "test_inner.py"
    path.write_text("import asyncio, pytest\n" + textwrap.dedent(source))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTGW_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "conftest",
            "-p",
            "no:cacheprovider",
            "-c",
            str(ROOT / "pyproject.toml"),
            "-vv",
            "-rN",
            "--tb=no",
            str(path),
        ],
        cwd=ROOT,
        env=inherited | {"PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "300"} | environment,
        capture_output=True,
        text=True,
    )
    found = dict(re.findall(r"^\S*::(\S+).*? ([A-Z]{5,7})\b", done.stdout, flags=re.MULTILINE))
    assert found, done.stdout + done.stderr
    return found


SKIPS = """
    def test_skipped():
        pytest.skip("no such tool")

    @pytest.mark.needs("no-such-tool-anywhere")
    def test_without_tool(): ...

    @pytest.mark.needs("sh")
    def test_with_tool(): ...

    def test_not_applicable():
        pytest.skip("not applicable: compiled modules only")

    @pytest.mark.xfail(reason="known")
    def test_expected_failure():
        raise AssertionError
"""


def test_a_skip_is_a_skip_here(tmp_path: Path) -> None:
    assert outcomes(tmp_path, SKIPS) == {
        "test_skipped": "SKIPPED",
        "test_without_tool": "SKIPPED",
        "test_with_tool": "PASSED",
        "test_not_applicable": "SKIPPED",
        "test_expected_failure": "XFAIL",
    }


def test_a_skip_is_a_failure_in_ci(tmp_path: Path) -> None:
    assert outcomes(tmp_path, SKIPS, FASTGW_CI="1") == {
        "test_skipped": "FAILED",
        "test_without_tool": "ERROR",  # pytest's word for a failure before the test
        "test_with_tool": "PASSED",
        "test_not_applicable": "SKIPPED",
        "test_expected_failure": "XFAIL",
    }


def test_what_a_loop_leaves_behind_is_a_failure(tmp_path: Path) -> None:
    source = """
        def test_clean(run_loop):
            async def main():
                return 7
            assert run_loop(main()) == 7

        def test_leaves_a_task(run_loop):
            async def main():
                main.task = asyncio.ensure_future(asyncio.sleep(60))
            run_loop(main())

        def test_hangs(run_loop):
            run_loop(asyncio.Event().wait(), timeout_s=0.01)

        def test_callback_fails(run_loop):
            async def main():
                asyncio.get_running_loop().call_soon(lambda: 1 / 0)
                await asyncio.sleep(0.01)
            run_loop(main())

        def test_error_is_lost(run_loop):
            async def main():
                asyncio.get_running_loop().create_future().set_exception(OSError())
            run_loop(main())

        @pytest.mark.loop_errors
        def test_error_is_expected(run_loop):
            async def main():
                asyncio.get_running_loop().call_soon(lambda: 1 / 0)
                await asyncio.sleep(0.01)
            run_loop(main())
    """
    found = outcomes(tmp_path, source)
    for loop in ("uvloop", "asyncio"):
        assert found[f"test_clean[{loop}]"] == "PASSED"
        assert found[f"test_leaves_a_task[{loop}]"] == "FAILED"
        assert found[f"test_hangs[{loop}]"] == "FAILED"
        assert found[f"test_callback_fails[{loop}]"] == "ERROR"  # its own assertions held
        assert found[f"test_error_is_lost[{loop}]"] == "ERROR"
        assert found[f"test_error_is_expected[{loop}]"] == "PASSED"


def test_pure_session_imports_sources_and_only_ours(tmp_path: Path) -> None:
    source = """
        import fastgw.wire.events
        import httptools.parser.parser

        def test_module_is_interpreted():
            assert fastgw.wire.events.__file__.endswith("events.py")

        def test_others_are_not():
            assert httptools.parser.parser.__file__.endswith(".so")
    """
    assert set(outcomes(tmp_path, source, FASTGW_PURE="1").values()) == {"PASSED"}
    assert outcomes(tmp_path, source)["test_module_is_interpreted"] == "FAILED"
