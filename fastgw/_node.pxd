"""C types of _node.pyx."""

cimport cython

from fastgw._record cimport node_t, part_t
from fastgw._shm cimport SlotTable


@cython.final
@cython.no_gc
cdef class NodeTable(SlotTable):
    cdef node_t *block
    cdef char *parts


@cython.final
cdef class Node:
    cdef readonly str host
    cdef readonly str name
    cdef readonly int port
    cdef readonly int weight
    cdef readonly int priority
    cdef public object data
    cdef node_t *c
    cdef part_t *part  # our worker's of it
    cdef int worker
    cdef NodeTable table
    cdef int slot
    cdef Node elder  # whose record this is, if it is not its own

    # Standing
    cpdef bint is_usable(self) noexcept
    cpdef bint is_available(self, double now, bint trials=*) noexcept
    cpdef double recovery(self, double now, bint trials=*) noexcept
    cpdef bint is_out_by_probes(self) noexcept
    cpdef bint is_cooling(self) noexcept
    cpdef bint is_dead(self) noexcept
    cpdef bint is_failing(self, double now, int min_requests, int percent) noexcept
    # One at a time
    cpdef bint enter(self) noexcept
    cpdef void leave(self, bint entered) noexcept
    # Reports
    cpdef int report(self, int kind, long long limit) except -1
    cpdef bint fail(
        self, int kind, long long limit, bint enough, double now, double base_s, double max_s, double spread
    ) except -1
    cpdef bint note_result(self, bint failed, double now) noexcept
    cpdef void note_traffic_failure(self, double now) noexcept
    cpdef void note_probe(self, bint failing, double expires) noexcept
    # Verdicts
    cpdef void eject(self, double until, int cause) noexcept
    cpdef double eject_for(self, double now, double base_s, double max_s, double spread) noexcept
    cpdef void cool(self, double until) noexcept
    cpdef double cool_for(
        self, double now, double base_s, double max_s, double spread, double told=*
    ) noexcept
    cpdef void kill(self, double until) noexcept
    cpdef double kill_for(self, double now, double base_s, double max_s) noexcept
    cpdef bint revive(self, double until, double now) noexcept
    cpdef int count_forbidden(self) noexcept
    cpdef void hold_panic(self, double now, double first_s, double most_s) noexcept
    cpdef void end_panic_pauses(self) noexcept
    cpdef void note_outage(self, double now) noexcept
    cpdef void absolve(self, double now, double ramp_after_s=*) noexcept
    cpdef void heal(self, double now, double ramp_after_s=*) noexcept
    # Leaving
    cpdef void release(self, int kind, double lease=*, int outcome=*) noexcept
