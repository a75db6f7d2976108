"""The kernel's C face: ``from fastgw._core cimport Node, Selector, Tried``."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from fastgw._node cimport Node
from fastgw._record cimport node_t, part_t


cdef enum:
    MAX_NODES = 1024  # of one selector
    TRIED_WORDS = 16  # MAX_NODES bits


# One node's place in a selector, kept in tier order.
ctypedef struct place_t:
    node_t *node
    part_t *part  # our worker's of it
    int64_t weight
    int64_t share  # gain per pick while the whole tier is up
    int64_t credit  # of the main schedule
    int64_t spare  # of picks that had to leave somebody out
    int32_t position  # index in Selector.nodes
    int32_t worker  # who we are to its table
    int32_t admission  # of the turns of a ramp, in parts of WHOLE_SHARE
    double ramp  # which one that is about
    uint8_t is_member  # of the set the credits are about
    uint8_t is_usable  # scratch of one scan
    uint8_t is_open  # scratch of one scan


@cython.final
cdef class Tried:
    cdef uint64_t bits[TRIED_WORDS]  # all that are left out
    cdef uint64_t skipped[TRIED_WORDS]  # those of them that were not tried
    cdef int count  # of the tried ones
    cdef int skips

    cpdef void add(self, int position) except *
    cpdef void skip(self, int position) except *
    cpdef Tried copy(self)
    cpdef void clear(self) noexcept


@cython.freelist(256)
@cython.no_gc
cdef class Pick:
    cdef readonly Node node
    cdef public object owner
    cdef readonly int position
    cdef readonly int kind
    cdef readonly int outcome
    cdef readonly bint has_answered
    cdef readonly double started_at
    cdef readonly double lease
    cdef readonly long long generation
    cdef readonly long long verdict

    cpdef bint is_out_of_date(self) noexcept
    cpdef bint is_overtaken(self) noexcept
    cpdef bint answer(self) noexcept
    cpdef bint end(self, int outcome) noexcept
    cpdef bint settle(self, int outcome) noexcept
    cpdef void leave(self) noexcept


@cython.final
cdef class Selector:
    cdef readonly tuple nodes
    cdef readonly bint trials
    cdef readonly double trial_lease_s
    cdef readonly double slow_start_s
    cdef readonly int panic_in_flight
    cdef bint panics_for_all
    cdef place_t *places
    cdef int32_t *tier_ends
    cdef int tier_count
    cdef int worker
    cdef int workers
    # About the last pick.
    cdef readonly int picked_position
    cdef readonly int picked_kind
    cdef readonly double picked_lease

    cpdef Node pick(self, double now, Tried tried=*)
    cpdef bint pick_into(self, Pick pick, double now, Tried tried=*) except -1
    cpdef bint has_open(self, double now, Tried tried=*) noexcept
    cpdef bint awaits_verdict(self, double now, Tried tried=*) except -1
    cpdef double next_recovery(self, double now) noexcept
    cdef int choose(self, double now, const uint64_t *tried, bint is_first) noexcept nogil
    cdef int choose_without(self, double now, const uint64_t *tried) noexcept nogil
    cdef int choose_one(self, double now, const uint64_t *tried, bint is_first) noexcept nogil
    cdef int choose_in_tier(
        self,
        int first,
        int end,
        double now,
        const uint64_t *tried,
        bint is_first,
        bint forced,
        int *trial,
        bint *any_usable,
    ) noexcept nogil
    cdef bint admits(self, int index, double now) noexcept nogil
    cdef int choose_beside(self, int index, double now, const uint64_t *tried) noexcept nogil
    cdef int next_if_plain(self, int first, int end) noexcept nogil
    cdef void begin_later(self, int first, int end) noexcept nogil
    cdef int richest(self, int first, int end, bint has_weight, bint is_main) noexcept nogil
    cdef int choose_in_panic(self, double now, const uint64_t *tried) noexcept nogil
    cdef bint is_for_panic(
        self, place_t *place, double now, const uint64_t *tried, bint takes_cooling
    ) noexcept nogil
    cdef int take(self, int index, int kind, double now) noexcept nogil
    cdef bint take_limited(self, place_t *place, int kind) noexcept nogil
