import cython

from ._clock cimport monotonic
from ._shm cimport Metrics
from .llm.body cimport BodyFacts
from .llm.sse cimport EventScanner
from .llm.usage cimport Usage, usage_of
from .proxy.answering cimport Answering
from .proxy.exchanges cimport Exchanges
from .proxy.plan cimport NodeLink, RoutePlan
from .proxy.relay cimport Relay


cdef class RouteSeries:
    cdef readonly str route
    cdef readonly int ok
    cdef readonly int ok_stream
    cdef readonly int duration
    cdef readonly dict codes
    cdef readonly dict stream_codes


cdef class TokenSeries:
    cdef readonly int prompt
    cdef readonly int completion
    cdef readonly int cached


cdef class LinkSeries:
    cdef readonly str upstream
    cdef readonly str node
    cdef readonly int succeeded
    cdef readonly int duration
    cdef readonly int first_token
    cdef readonly int inter_token
    cdef readonly frozenset models
    cdef readonly dict outcomes
    cdef readonly dict tokens


cdef class Recorder:
    cdef readonly Metrics metrics
    cdef public object then
    cdef object clock
    cdef readonly tuple upstreams
    cdef dict _labels
    cdef dict _rare
    cdef dict _accounts
    cdef dict _missing
    cdef long long _seen_interrupted
    cdef long long _seen_gone
    cdef long long _seen_resumed
    cdef long long _seen_refusals
    cdef bint _is_full
    cdef int _refused_series
    cdef int _overhead
    cdef int _interrupted
    cdef int _resumed
    cdef int _budget_exhausted
    cdef int _reload_failed
    cdef int _overloaded
    cdef list _gone
    cdef list _connections
    cdef list _defences
    cdef list _seen_defences

    # Requests
    @cython.locals(
        now=double,
        before=double,
        metrics=Metrics,
        plan=RoutePlan,
        route=RouteSeries,
        records=tuple,
        exchanges=Exchanges,
    )
    cpdef on_finished(self, Answering exchange)
    @cython.locals(
        relay=Relay, scanner=EventScanner, document=bytes, usage=Usage, link=NodeLink, series=LinkSeries,
        tokens=TokenSeries, metrics=Metrics, spent=double
    )
    cdef Usage _usage(self, Answering exchange)
    @cython.locals(facts=BodyFacts, tokens=TokenSeries)
    cdef TokenSeries _tokens(self, LinkSeries series, NodeLink link, Answering exchange)
    @cython.locals(codes=dict)
    cdef int _code(self, RouteSeries route, Answering exchange) except? -1
    @cython.locals(series=LinkSeries)
    cdef _attempt(self, NodeLink link, tuple record)
    cdef int _outcome(self, LinkSeries series, str outcome) except? -1
    @cython.locals(plan=RoutePlan)
    cdef _attempts(self, Answering exchange)
    @cython.locals(link=NodeLink, series=LinkSeries)
    cdef _first_token(self, Answering exchange)
    @cython.locals(phase=int)
    cdef _disconnected(self, Answering exchange)


cdef str _SUCCEEDED
