"""`fastgw simulate`: only the two simulated providers, on ports of their own."""

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

import uvloop

from fastgw.cli import logs
from fastgw.cli.options import Exit
from fastgw.config.addresses import with_port
from fastgw.server import on_signals
from fastgw.simulator import DEFAULT_KEYS, Simulator, start

logger = logging.getLogger("fastgw.simulate")


def run(
    *,
    host: str,
    port_openai: int,
    port_deepseek: int,
    control: int,
    article: bool,
    ca_dir: str | None,
    log_level: str | None,
    log_format: str | None,
) -> Exit:
    """Serve until a signal."""
    logs.configure(log_level or "info", log_format or "text")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(host, (port_openai, port_deepseek), control, ca_dir, article=article))
    except KeyboardInterrupt:
        return Exit.CLEAN
    finally:
        logs.close()


async def _serve(
    host: str, ports: tuple[int, int], control: int, ca_dir: str | None, *, article: bool
) -> Exit:
    ended = asyncio.Event()
    on_signals(dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), ended.set))
    try:
        simulator = await start(
            host, ports, control, ca_dir=Path(ca_dir) if ca_dir else None, article=article
        )
    except OSError as error:
        sys.stderr.write(f"fastgw: cannot start the simulated providers: {error.strerror or error}\n")
        return Exit.LISTEN
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(simulator.close)
        sys.stdout.write(described(simulator, is_article=article))
        sys.stdout.flush()
        await ended.wait()
    return Exit.CLEAN


def described(simulator: Simulator, *, is_article: bool) -> str:
    """Where they are, how to break them, and how to run the gateway against them."""
    lines = ["simulated providers:"]
    for name, provider in simulator.providers.items():
        address = with_port(provider.address, provider.port)
        lines.append(f"  {provider.host:17} https://{address}   key {DEFAULT_KEYS[name]}")
    control = f"http://127.0.0.1:{simulator.control_port}"
    lines += [
        f"  {'control':17} {control}",
        "",
        "break one, and mend it:",
        f"""  curl -X PUT {control}/providers/openai/fault -d '{{"kind": "refuse"}}'""",
        f"  curl -X DELETE {control}/providers/openai/fault",
        "",
        "run a gateway in front of them:",
    ]
    lines += [f"  {line}" for line in gateway_command(simulator, is_article=is_article)]
    return "\n".join(lines) + "\n"


def gateway_command(simulator: Simulator, *, is_article: bool) -> list[str]:
    """A command for a shell, over several lines."""
    keys = " ".join(f"{name.upper()}_API_KEY={key}" for name, key in DEFAULT_KEYS.items())
    begin = "fastgw run -c examples/article.yaml" if is_article else f"{keys} fastgw run"
    arguments: list[str] = [f"--connect-to {_curl(entry)}" for entry in simulator.connect_to]
    arguments.append(f"--ca-file {simulator.ca_file}")
    lines = [begin, *(f"  {argument}" for argument in arguments)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _curl(entry: tuple[str, int, str, int]) -> str:
    host, port, to_host, to_port = entry
    return f"{host}:{port}:{with_port(to_host, to_port)}"
