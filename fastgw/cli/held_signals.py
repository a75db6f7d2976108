"""Signals that mean something to a gateway that runs wait until it does: by default they would end it.

A service manager may ask for a reload, or a rotation of logs, while the process still starts.
"""

import signal

_HELD = {signal.SIGHUP, signal.SIGUSR1}


def hold() -> None:
    """From now on they wait. What is forked or started as a thread inherits that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """They have their handlers: take those that wait, and all to come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
