"""What mypy and readers see of _clock.pyx."""

def monotonic() -> float:
    """What ``time.monotonic`` says: seconds from a start that does not matter."""
