"""``python crowd_of_signals.py JSON``: a supervisor to which thousands of signals come while it reloads.

The argument says whether ``is_ended_at_once``, before the reload that the crowd asked for. Prints how often
it has reloaded and ended, and its exit code. A process of its own: no other thread takes a signal there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from fastgw.supervisor import Supervisor


def main(is_ended_at_once: bool) -> dict[str, Any]:
    reloads: list[int] = []
    endings: list[int] = []

    def reload() -> None:
        reloads.append(1)
        if len(reloads) == 1:
            for _ in range(5000):
                os.kill(os.getpid(), signal.SIGHUP)
        if is_ended_at_once or len(reloads) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    supervisor = Supervisor(
        on_started=lambda: os.kill(os.getpid(), signal.SIGHUP),
        on_hangup=reload,
        on_ending=lambda: endings.append(1),
        hang_limit_s=10.0,
    )
    code = supervisor.run()
    return {"reloads": len(reloads), "endings": len(endings), "code": code}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))), flush=True)
