"""Requests while somebody sets the wall clock: ``clock_steps.py CA_DIR``.

The clock is replaced before anything else is imported, so that whoever takes it by its name has this one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

HOUR_S = 3600.0
FIRST_S = 0.4  # what a provider takes for its answer while the clock is set: eight looks at the deadlines

_real = time.time
_ahead_s = 0.0


def set_clock(ahead_s: float) -> None:
    global _ahead_s
    _ahead_s = ahead_s


async def main(ca_dir: Path) -> None:
    from raw_http import chat, connected
    from rig import CONFIG, brief, config_of

    from fastgw.gateway import Gateway, Settings
    from fastgw.simulator import Fault, FaultKind
    from fastgw.simulator import start as start_simulator

    path = "/v1/chat/completions"
    slowly = {"x-sim-first-ms": str(int(FIRST_S * 1000)), "x-sim-tokens": "20", "x-sim-delay-ms": "20"}
    text = brief(CONFIG[: CONFIG.index("      checks:")])
    async with await start_simulator(ca_dir=ca_dir) as simulator:
        gateway = Gateway(
            config_of(text),
            Settings(
                listen=("127.0.0.1:0",),
                connect_to=simulator.connect_to,
                ca_file=simulator.ca_file,
                forwards_simulator_fields=True,
            ),
        )
        await gateway.start()
        async with connected(gateway.addresses[0].port) as connection:
            for ahead_s in (HOUR_S, -HOUR_S, 0.0):
                for stream in (False, True):
                    asking = asyncio.ensure_future(
                        connection.ask("POST", path, headers=slowly, body=chat("hello", stream=stream))
                    )
                    while not gateway.exchanges.live:
                        await asyncio.sleep(0.001)
                    set_clock(ahead_s + stream)
                    answer = await asking
                    seen = (answer.status, answer.is_whole, answer.headers["x-fastgw-attempts"])
                    assert seen == (200, True, "1"), (ahead_s, stream, answer)
                    assert not stream or answer.body.endswith(b"data: [DONE]\n\n"), answer
            # Set back while a provider hangs: it is left when its time is over, not an hour later.
            simulator.openai.fault = Fault(FaultKind.HANG_BEFORE_HEAD)
            asking = asyncio.ensure_future(connection.ask("POST", path, body=chat("hello")))
            while not gateway.exchanges.live:
                await asyncio.sleep(0.001)
            set_clock(-HOUR_S)
            answer = await asyncio.wait_for(asking, 60)
            assert (answer.status, answer.headers["x-fastgw-attempts"]) == (200, "2"), answer
            # All of it came on one connection, and the provider was given one: none was idle for an hour.
            assert gateway.counts()["client_connections"] == 1
            assert simulator.openai.counters.connections == 1
        await gateway.close()


if __name__ == "__main__":
    time.time = lambda: _real() + _ahead_s
    import uvloop  # its loop reads a clock of its own, whatever becomes of Python's

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
