"""The clock, as one C call: ``time.monotonic`` costs compiled code a Python call and an object."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cpdef double monotonic() noexcept:
    """What ``time.monotonic`` says: seconds from a start that does not matter."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <double>time.tv_sec + <double>time.tv_nsec * 1e-9
