import cython

from .._core cimport Tried
from ..balancing.retry cimport RetryBudget
from ..balancing.upstream cimport Attempt, Upstream
from .answering cimport Answering
from .exchanges cimport Exchanges
from .plan cimport NodeLink


@cython.no_gc  # as its base
cdef class Choosing(Answering):
    @cython.locals(exchanges=Exchanges, left_out=Tried, budget=RetryBudget, attempt=Attempt)
    cdef Attempt _start_with_care(self, Upstream upstream, double now)
    @cython.locals(left_out=Tried)
    cdef bint _could_move(self, Upstream upstream, double now) except -1
    @cython.locals(exchanges=Exchanges, budget=RetryBudget)
    cdef _spare(self, Upstream upstream, Tried left_out, double now)
    cdef _skip_misfit(self, Attempt attempt, NodeLink link, str misfit, double now)
    cdef _exclude(self, int position)
    cdef str _model_sent(self)
    cdef _note_model_served(self, Attempt attempt, double now)
    cdef bint _leave_out_this_model(self) except -1
    cdef bint _is_replayable(self) except -1
    @cython.locals(attempt=Attempt)
    cdef _by_fallback(self, retryable, double now)
