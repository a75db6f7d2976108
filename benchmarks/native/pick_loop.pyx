# cython: language_level=3, boundscheck=False, wraparound=False
"""Picks from Cython: what code that cimports the kernel pays, without Python's calls."""

from fastgw._core cimport Node, Selector
from fastgw.balancing.upstream cimport Attempt, Upstream


cdef enum:
    SUCCEEDED = 1  # an AttemptOutcome


def picks(Selector selector not None, long count):
    """``count`` picks, each given back at once with its outcome, as ``Selector.pick`` asks for."""
    cdef long turn
    cdef Node node
    for turn in range(count):
        node = selector.pick(5.0)
        node.release(selector.picked_kind, selector.picked_lease, SUCCEEDED)


def attempts(Upstream upstream not None, long count):
    """``count`` attempts that succeed: pick, health counters, release."""
    cdef long turn
    cdef Attempt attempt
    for turn in range(count):
        attempt = upstream.start_attempt(5.0)
        attempt.succeeded(5.0)
