"""The gateway that is abused: a process of its own, with one LLM route to one provider over plain HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_process import Process, gateway_process
from wire_ends import config_for

KIB = 1024
MIB = 1024 * KIB


@contextmanager
def gateway(
    port: int, *, process: str = "", nofile: int = 0, access_log: Path | None = None
) -> Iterator[Process]:
    """A running gateway; it must live to the end, and say nothing that it did not expect.

    Args:
        port: of the provider.
        process: fields of the object ``fastgw``, as flow YAML.
        nofile: how many descriptors it may have; 0: as many as we.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = directory / "gateway.yaml"
        config.write_text(config_for(port, process=process, provider="openai"))
        options: dict[str, Any] = {"config": str(config), "connect_to": [], "ca_file": None}
        if nofile:
            options["nofile"] = nofile
        if access_log is not None:
            options["access_log"] = str(access_log)
        errors = directory / "errors"
        with gateway_process(options, errors=errors) as running:
            yield running
            assert running.popen.poll() is None, errors.read_text()
        said = errors.read_text()
        assert "Traceback" not in said, said
