"""C types of upstream.py."""

cimport cython

from fastgw._core cimport Pick, Selector, Tried
from fastgw._node cimport Node
from fastgw.balancing.models cimport ModelTable


cdef int _HTTP
cdef int _NORMAL, _TRIAL, _PANIC, _ACTIVE
cdef int _SUCCEEDED, _BUSY, _FAILED, _DEAD, _FORBIDDEN, _IGNORED
cdef double _FAILURE_MEMORY_S


cdef class Attempt


cdef class Upstream:
    cdef readonly str name
    cdef readonly tuple nodes
    cdef readonly dict by_name
    cdef readonly int retries
    cdef readonly double retry_timeout_s
    cdef readonly object health
    cdef readonly bint judges_statuses
    cdef readonly ModelTable models
    cdef Selector _selector
    cdef object _random
    # Policy, as the outcomes need it
    cdef bint _counts
    cdef bint _counts_late
    cdef bint _trial_decides
    cdef bint _probes
    cdef bint _ejects_at_once
    cdef long long _limit_success, _limit_http, _limit_tcp, _limit_timeout
    cdef long long _probe_success, _probe_http, _probe_tcp, _probe_timeout
    cdef double _ejection_s, _ejection_max_s, _jitter
    cdef int _rate_min, _rate_percent, _forbidden_needed
    cdef double _busy_s, _busy_max_s, _overload_s, _cooling_max_s
    cdef double _dead_s, _dead_max_s
    cdef double _panic_pause_s, _panic_first_s, _probe_hold_s, _ramp_after_s

    # Attempts

    @cython.locals(attempt=Attempt)
    cpdef Attempt start_attempt(self, double now, Tried tried=*)
    cpdef bint has_open(self, double now, Tried tried) except -1

    @cython.locals(attempt=Attempt, table=ModelTable, alone=Tried, position=int, other=int)
    cpdef Attempt start_for(self, double now, Tried tried, tuple models, tuple scopes, bint insists)
    @cython.locals(misfits=list, is_limited=bint, position=int)
    cpdef tuple skip_resting(self, double now, Tried tried, tuple models, tuple scopes)
    cpdef bint is_limited(self, double now, tuple models, tuple scopes) except -1

    @cython.locals(node=Node, position=int)
    cpdef object skip_failing(self, double now, Tried tried)
    cpdef bint is_failing(self, Node node, double now) except -1
    cpdef bint awaits_verdict(self, double now, Tried tried) except -1
    cpdef double next_recovery(self, double now)

    @cython.locals(earliest=double, at=double, end=double, position=int)
    cpdef double next_recovery_for(self, double now, tuple models, tuple scopes)
    # Probes
    @cython.locals(entered=cython.bint)
    cpdef bint record_probe(self, Node node, int report, double now, thresholds=*) except -1
    @cython.locals(limit=cython.longlong)
    cdef bint _count_probe(self, Node node, int report, double now, thresholds) except -1
    # Policy
    cdef double _spread(self) except? -1
    cdef long long _limit(self, int kind) noexcept
    cdef long long _probe_limit(self, int kind) noexcept


# No fields of its own: so it shares the free list of its base.
cdef class Attempt(Pick):
    # Underway

    @cython.locals(upstream=Upstream)
    cpdef bint is_stale(self) except -1
    cpdef bint answered(self, double now) except -1
    # The one outcome
    cpdef bint succeeded(self, double now) except -1

    @cython.locals(upstream=Upstream)
    cpdef bint passed_on(self, int status, double now) except -1

    @cython.locals(entered=cython.bint)
    cpdef bint failed(self, int kind, double now, bint at_once=*) except -1

    @cython.locals(entered=cython.bint)
    cpdef bint busy(self, double until, double now, bint overload=*) except -1

    @cython.locals(upstream=Upstream, is_nodes=cython.bint)
    cpdef bint busy_for(self, str model, double until, double now) except -1
    cpdef bint misfit(self, str model, bytes scope, str reason, double now) except -1

    @cython.locals(upstream=Upstream, node=Node, entered=cython.bint)
    cpdef bint dead(self, double now) except -1

    @cython.locals(upstream=Upstream, node=Node, entered=cython.bint, known=cython.bint)
    cpdef bint forbidden(self, double now) except -1
    cpdef bint ignored(self, double now) except -1
    # Effects

    @cython.locals(
        upstream=Upstream,
        node=Node,
        on_probation=cython.bint,
        is_late=cython.bint,
        usable=cython.bint,
        enough=cython.bint,
        ejects=cython.bint,
    )
    cdef void _blame(self, int kind, double now, bint at_once) except *

    @cython.locals(upstream=Upstream, node=Node, known=cython.bint, told=double)
    cdef void _rest(self, double until, double now, bint overload) except *

    @cython.locals(upstream=Upstream, node=Node, entered=cython.bint)
    cdef void _credit(self, double now) except *

    @cython.locals(limit=cython.longlong)
    cdef void _clear(self, Node node, Upstream upstream, double now) except *
