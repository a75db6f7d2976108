"""The kernel's C face: ``from fastgw._core cimport Node, Selector, Tried``."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef enum:  # HealthState
    HEALTHY = 0
    MOSTLY_HEALTHY = 1
    MOSTLY_UNHEALTHY = 2
    UNHEALTHY = 3

cdef enum:  # Report; the failures are the numbers of errors.FailureKind
    SUCCESS = 0
    HTTP_FAILURE = 1
    TCP_FAILURE = 2
    TIMEOUT = 3

cdef enum:  # Cause
    CAUSE_NONE = 0
    CAUSE_PASSIVE = 1
    CAUSE_ACTIVE = 2

cdef enum:  # PickKind
    NORMAL = 0
    TRIAL = 1
    PANIC = 2

cdef enum:
    MAX_NODES = 1024  # of one selector
    TRIED_WORDS = 16  # MAX_NODES bits
    WINDOW_S = 10
    OUTCOME_KINDS = 8


ctypedef struct second_t:
    int64_t second  # which second of the clock this is about
    uint32_t total
    uint32_t failed


# One node's state. No pointers and only fixed widths, so that a block of them can lie in memory
# shared by processes; all zero is a healthy node. Times are monotonic seconds, 0 = not set.
ctypedef struct node_t:
    # Read by every pick.
    int32_t state
    int32_t in_flight
    int32_t max_in_flight  # 0 = no limit
    int32_t panic_in_flight  # those of in_flight that were picked in panic
    double cooling_until
    double dead_until
    double ejected_until
    double trial_expires
    double panic_after
    int32_t cause
    int32_t probe_failing
    double probe_expires  # until then the last probe's word holds
    # What tells late news from fresh.
    int64_t generation  # times it went from usable to unusable
    int64_t verdict  # times anything about its standing changed
    # Counting.
    int64_t counters[4]  # by Report
    int64_t picks
    int64_t outcomes[OUTCOME_KINDS]
    # How far the growing terms have grown.
    int32_t ejections
    int32_t coolings
    int32_t deaths
    int32_t forbidden
    double healed_at
    double traffic_failed_at
    second_t window[WINDOW_S]


# One node's place in a selector, kept in tier order.
ctypedef struct place_t:
    node_t *node
    int64_t weight
    int64_t share  # gain per pick while the whole tier is up
    int64_t credit  # of the main schedule
    int64_t spare  # of picks that had to leave somebody out
    int32_t position  # index in Selector.nodes
    uint8_t is_member  # of the set the credits are about
    uint8_t is_usable  # scratch of one scan
    uint8_t is_open  # scratch of one scan


@cython.final
cdef class NodeTable:
    cdef readonly int capacity
    cdef node_t *block
    cdef int32_t *vacant
    cdef int vacancies
    cdef int used
    cdef bint is_borrowed
    cdef Py_buffer view

    cdef int take(self) except -1
    cdef void give_back(self, int slot) noexcept


@cython.final
cdef class Node:
    cdef readonly str host
    cdef readonly str name
    cdef readonly int port
    cdef readonly int weight
    cdef readonly int priority
    cdef public object data
    cdef node_t *c
    cdef NodeTable table
    cdef int slot
    cdef Node elder  # whose record this is, if it is not its own

    # Standing
    cpdef bint is_usable(self) noexcept
    cpdef bint is_available(self, double now, bint trials=*) noexcept
    cpdef bint is_out_by_probes(self) noexcept
    cpdef bint is_cooling(self) noexcept
    cpdef bint is_dead(self) noexcept
    cpdef bint is_failing(self, double now, int min_requests, int percent) noexcept
    # Reports
    cpdef int report(self, int kind, long long limit) except -1
    cpdef bint note_result(self, bint failed, double now) noexcept
    cpdef void note_traffic_failure(self, double now) noexcept
    cpdef void note_probe(self, bint failing, double expires) noexcept
    # Verdicts
    cpdef void eject(self, double until, int cause) noexcept
    cpdef double eject_for(self, double now, double base_s, double max_s, double spread) noexcept
    cpdef void cool(self, double until) noexcept
    cpdef double cool_for(self, double now, double base_s, double max_s, double spread) noexcept
    cpdef void kill(self, double until) noexcept
    cpdef double kill_for(self, double now, double base_s, double max_s) noexcept
    cpdef int count_forbidden(self) noexcept
    cpdef void hold_panic(self, double until) noexcept
    cpdef void absolve(self, double now) noexcept
    cpdef void heal(self, double now) noexcept
    # Leaving
    cpdef void release(self, int kind, double lease=*, int outcome=*) noexcept


@cython.final
cdef class Tried:
    cdef uint64_t bits[TRIED_WORDS]
    cdef int count

    cpdef void add(self, int position) except *
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


@cython.final
cdef class Selector:
    cdef readonly tuple nodes
    cdef readonly bint trials
    cdef readonly double trial_lease_s
    cdef readonly int panic_in_flight
    cdef bint panics_for_all
    cdef place_t *places
    cdef int32_t *tier_ends
    cdef int tier_count
    # About the last pick.
    cdef readonly int picked_position
    cdef readonly int picked_kind
    cdef readonly double picked_lease

    cpdef Node pick(self, double now, Tried tried=*)
    cpdef bint pick_into(self, Pick pick, double now, Tried tried=*) except -1
    cpdef double next_recovery(self, double now) noexcept
    cdef int choose(self, double now, const uint64_t *tried) noexcept nogil
    cdef int choose_in_tier(
        self, int first, int end, double now, const uint64_t *tried, bint forced, int *trial, bint *any_usable
    ) noexcept nogil
    cdef bint is_plain(self, int first, int end) noexcept nogil
    cdef int next_in_schedule(self, int first, int end) noexcept nogil
    cdef int richest(self, int first, int end, bint has_weight, bint is_main) noexcept nogil
    cdef int choose_in_panic(self, double now, const uint64_t *tried) noexcept nogil
    cdef int take(self, int index, int kind, double now) noexcept nogil
