"""Test session set-up: which build is under test, is it current, and what no test may leave behind."""

import asyncio
import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

import pytest
import trustme
import uvloop
from build_guard import prefer_source, unfit_extensions
from hypothesis import HealthCheck, settings

IS_PURE = bool(os.environ.get("FASTGW_PURE"))
IS_CI = bool(os.environ.get("FASTGW_CI"))
T = TypeVar("T")


# --- Which build is under test ----------------------------------------------------------------


if problems := unfit_extensions(is_pure=IS_PURE):
    raise SystemExit("run `make` first:\n  " + "\n  ".join(problems))
if IS_PURE:
    prefer_source()


def pytest_report_header() -> str:
    return "fastgw: " + ("interpreted sources" if IS_PURE else "compiled modules")


# --- Hypothesis -------------------------------------------------------------------------------

# No deadline, and nothing is too slow: on a busy machine both say something of the machine. In CI the same
# examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if IS_CI else "local")


# --- A skip is a hole: in CI it is a failure --------------------------------------------------

# A skip whose reason begins so is right everywhere: the test says nothing in this build.
NOT_APPLICABLE = "not applicable: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    tools = [tool for marker in item.iter_markers("needs") for tool in marker.args]
    if item.get_closest_marker("node"):
        tools += ["node", "npm"]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)}")


def _fail_instead(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure, unless it is an expected failure or says that it does not apply."""
    if not IS_CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(NOT_APPLICABLE):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_instead(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_instead(report)
    return report


# --- Event loops ------------------------------------------------------------------------------


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" [{record.exc_info[1]!r}]"
        self.texts.append(text)


@pytest.fixture(autouse=True)
def loops_report_no_error(request: pytest.FixtureRequest) -> Generator[None]:
    """A loop only logs what goes wrong in a callback or a lost task; here it fails the test."""
    collector = _Collector()
    logger = logging.getLogger("asyncio")
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
    if not request.node.get_closest_marker("loop_errors"):
        assert not collector.texts, "reported by the event loop:\n" + "\n".join(collector.texts)


@pytest.fixture(autouse=True)
def no_signal_is_left_blocked() -> Generator[None]:
    """What the next test starts would inherit it, and hear nothing."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    """The test runs once on each kind of event loop."""
    return str(request.param)


class RunLoop(Protocol):
    def __call__(self, main: Coroutine[Any, Any, T], *, timeout_s: float = 60.0) -> T: ...


@pytest.fixture
def run_loop(loop_kind: str) -> RunLoop:
    """Run a coroutine on a fresh loop of ``loop_kind``; a task it leaves behind fails the test."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop,
        "asyncio": asyncio.new_event_loop,
    }

    def run(main: Coroutine[Any, Any, T], *, timeout_s: float = 60.0) -> T:
        async def guarded() -> T:
            own = asyncio.current_task()
            result = await asyncio.wait_for(main, timeout_s)
            for _ in range(3):  # tasks that were cancelled a moment ago may end
                await asyncio.sleep(0)
            left = [repr(task) for task in asyncio.all_tasks() if task is not own]
            assert not left, "tasks left behind:\n" + "\n".join(left)
            return result

        with asyncio.Runner(loop_factory=factories[loop_kind]) as runner:
            result = runner.run(guarded())
        gc.collect()  # what is lost without a reference is reported now, in the test that lost it
        return result

    return run


# --- Certificates -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who issues the certificates of a test's own nodes."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of its certificate: for who trusts it."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)
