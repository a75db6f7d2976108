"""What the figures were made on."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .loads import wrk_version


def describe() -> dict[str, str]:
    """The machine and the versions of what is no peer. Nothing that tells whose machine it is."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, "
        + ", ".join(map(package, ("uvloop", "httptools", "Cython"))),
        "wrk": wrk_version(),
        "load average before": "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()),
    }


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    return f"{pages / 2**30:.0f} GiB"


def package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} ?"


def warning() -> str | None:
    """Why figures of this machine, now, would mislead; None if nothing is known to speak against them."""
    if len(os.sched_getaffinity(0)) < 2:
        return "only one core: the load and the gateway share it, and every figure with a clock is worthless"
    if os.getloadavg()[0] > 1.0:
        return (
            f"the machine is busy (load average {os.getloadavg()[0]:.1f}): trust counts and ratios, not times"
        )
    if sys.platform != "linux":
        return "this is not Linux"
    return None
