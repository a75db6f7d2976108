# cython: language_level=3, boundscheck=False, wraparound=False
"""Picks from Cython: what code that cimports the kernel pays, without Python's calls."""

from fastgw._core cimport Node, Selector
from fastgw.balancing.upstream cimport Attempt, Upstream


def picks(Selector selector not None, long count):
    """``count`` picks, each released at once."""
    cdef long turn
    cdef Node node
    for turn in range(count):
        node = selector.pick(5.0)
        node.release(0)


def attempts(Upstream upstream not None, long count):
    """``count`` attempts that succeed: pick, health counters, release."""
    cdef long turn
    cdef Attempt attempt
    for turn in range(count):
        attempt = upstream.start_attempt(5.0)
        attempt.succeeded(5.0)
