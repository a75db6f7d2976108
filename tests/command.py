"""The command in a process of its own, as its users meet it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from source_graph import ROOT

PATIENCE_S = 60.0
# As the tests themselves run: compiled, or interpreted if that is what is tested.
COMMAND = (
    ("-c", "import build_guard; build_guard.prefer_source(); from fastgw.cli import main; main()")
    if os.environ.get("FASTGW_PURE")
    else ("-m", "fastgw")
)


def environment(authority: Path, **more: str) -> dict[str, str]:
    """Ours without what would change how fastgw starts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FASTGW_") and name not in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY")
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "XDG_CACHE_HOME": str(authority),
        **more,
    }


class Process:
    """A running command; what it writes is read all the time."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *COMMAND, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._changed = threading.Condition()
        self._texts = {"out": "", "err": ""}
        self._threads = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.popen.stdout), ("err", self.popen.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str, stream: Any) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._texts[name] += line.decode()
                    self._changed.notify_all()

    @property
    def out(self) -> str:
        return self._texts["out"]

    @property
    def err(self) -> str:
        return self._texts["err"]

    def saw(self, pattern: str, where: str = "err") -> re.Match[str]:
        """Wait until a pattern appears."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while (match := re.search(pattern, self._texts[where])) is None:
                left = deadline - time.monotonic()
                assert left > 0 and (self.popen.poll() is None or self._threads[0].is_alive()), (
                    f"no {pattern!r} in:\n{self.out}\n{self.err}"
                )
                self._changed.wait(min(left, 0.2))
        return match

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; returns the exit code, when everything written has been read."""
        code = self.popen.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.ended()


FREE = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")


def base_of(process: Process) -> tuple[str, int]:
    match = process.saw(r"listening on http://([\d.]+):(\d+)")
    process.saw(r"  config   .*\n")  # the whole banner is there
    return match[1], int(match[2])


def admin_of(process: Process) -> tuple[str, int]:
    match = process.saw(r"  admin    http://([\d.]+):(\d+)")
    return match[1], int(match[2])


def ask(
    address: tuple[str, int], path: str = "/v1/chat/completions", method: str = "POST", **body: Any
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
    try:
        data = None
        if method == "POST":
            body.setdefault("model", "gpt-4o-mini")
            body.setdefault("messages", [{"role": "user", "content": "hello id-1"}])
            data = json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()
