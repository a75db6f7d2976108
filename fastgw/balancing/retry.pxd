"""C types of retry.py."""

import cython


cpdef bint computes_answer(bytes method, bytes path)
cpdef bint is_replayable(bytes method, bytes path, bytes body)
cpdef bint is_nodes_fault(int status)
cpdef bytes endpoint_of(bytes method, bytes path)
cpdef bint may_attempt_again(retryable, bint replayable, int uncertain_replays)


cdef class RetryBudget:
    cdef readonly double percent
    cdef readonly double per_s
    cdef list _seconds
    cdef list _begun
    cdef list _spent

    @cython.locals(second=cython.longlong, place=int)
    cpdef int note(self, double now, long long begun) except -1
    @cython.locals(second=cython.longlong, place=int, base=cython.longlong, spent=cython.longlong)
    cpdef bint is_left(self, double now, long long begun) except -1
    cpdef spend(self, double now, long long begun)


cdef tuple REPLAYABLE_ENDINGS, STORING_ENDINGS, _COMPUTING_ENDINGS
