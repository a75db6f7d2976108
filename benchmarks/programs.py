"""The C programs of ``native/``, compiled when a source is newer than what was built of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "native"
BUILD = HERE / ".build"


class CannotCompile(Exception):
    """There is no compiler, or it refused; the message says which."""


def relay() -> Path:
    return _compile("relay", "relay")


def load() -> Path:
    return _compile("load", "load")


def emitter() -> Path:
    return _compile("emitter", "emitter")


def tls_emitter() -> Path:
    """The emitter that speaks TLS. Raises CannotCompile where OpenSSL's headers are missing."""
    try:
        return _compile("emitter", "emitter-tls", "-DWITH_TLS", "-lssl", "-lcrypto")
    except CannotCompile as error:
        if "openssl/" in str(error):
            raise CannotCompile("OpenSSL's headers are missing (Debian: apt install libssl-dev)") from error
        raise


def _compile(source: str, program: str, *arguments: str) -> Path:
    sources = [SOURCES / f"{source}.c", SOURCES / "net.h"]
    built = BUILD / program
    if built.exists() and built.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return built
    BUILD.mkdir(exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(built), str(sources[0]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotCompile(f"there is no {compiler} (Debian: apt install gcc)") from error
    if done.returncode:
        raise CannotCompile(done.stderr[-2000:])
    return built
