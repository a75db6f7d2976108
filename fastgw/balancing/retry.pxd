"""C types of retry.py."""


cpdef bint computes_answer(bytes method, bytes path)
cpdef bint is_replayable(bytes method, bytes path, bytes body)
cpdef bint is_nodes_fault(int status)
cpdef bint may_attempt_again(retryable, bint replayable, int uncertain_replays)


cdef tuple REPLAYABLE_ENDINGS, STORING_ENDINGS, _COMPUTING_ENDINGS
