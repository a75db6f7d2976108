"""A gateway in a process of its own: ``python gateway_process.py JSON``.

The argument is an object with ``config`` (a file), ``connect_to`` and ``ca_file`` of the simulation,
and maybe ``access_log``, ``drain_s`` and ``nofile`` (how many descriptors it may have). When it
listens it prints one line of JSON with its ports.
SIGTERM drains and ends it, SIGHUP loads its configuration again; the end of its standard input ends
it at once, so that it never outlives the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from python_process import python_process

from fastgw.access_log import AccessLog
from fastgw.admin import Admin
from fastgw.cli import garbage
from fastgw.config import load
from fastgw.gateway import Gateway, Settings
from fastgw.server import Address, on_signals


class Process:
    """A running gateway process, as its test sees it."""

    def __init__(self, popen: subprocess.Popen[str], ports: dict[str, int]) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.port = ports["port"]
        self.admin_port = ports["admin_port"]

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, limit_s: float = 60) -> int:
        return self.popen.wait(limit_s)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self) -> float:
        """Seconds of processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_ns(self) -> int:
        """The same of its first thread, which runs the event loop, as the scheduler counts it."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])

    def forget_peak(self) -> None:
        """``peak_bytes`` counts from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most memory that was resident at a time."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def gateway_process(
    options: dict[str, Any], *, errors: Path, python: tuple[str, ...] = ()
) -> Iterator[Process]:
    """Start one; it is gone at the end. What it says on standard error is in ``errors``."""
    with errors.open("w") as stderr:
        try:
            with python_process(*python, __file__, options=options, stderr=stderr) as (popen, ports):
                yield Process(popen, ports)
        except AssertionError as error:
            error.add_note(errors.read_text())
            raise


async def serve(options: dict[str, Any]) -> None:
    def configuration() -> Any:
        return load(options["config"], env=options.get("env", {}))

    if "nofile" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["nofile"], options["nofile"]))
    log = AccessLog(options["access_log"], "json") if options.get("access_log") else None
    gateway = Gateway(
        configuration(),
        Settings(
            listen=("127.0.0.1:0",),
            connect_to=tuple(tuple(entry) for entry in options["connect_to"]),
            ca_file=options["ca_file"],
            forwards_simulator_fields=True,
        ),
        reload_config=configuration,
        access_log=log,
    )
    await gateway.start()
    admin = Admin(gateway)
    await admin.start(Address.parse("127.0.0.1:0"))
    assert admin.address is not None
    garbage.settle()  # as the command does

    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60.0  # -X dev reports what took long, which says something of the machine
    ended = asyncio.Event()
    on_signals({signal.SIGTERM: ended.set, signal.SIGHUP: gateway.reload})
    loop.add_reader(sys.stdin.fileno(), lambda: os._exit(9))  # its end: nothing is ever written there
    print(json.dumps({"port": gateway.addresses[0].port, "admin_port": admin.address.port}), flush=True)
    await ended.wait()
    await gateway.drain(options.get("drain_s"))
    await gateway.close()
    loop.remove_reader(sys.stdin.fileno())
    if log is not None:
        log.close()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
