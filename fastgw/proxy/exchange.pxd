import cython

from ..balancing.deadlines cimport attempt_deadline
from ..balancing.retry cimport computes_answer, endpoint_of
from ..balancing.upstream cimport Attempt, Upstream
from ..llm.adapter cimport Adapter, Rendering
from ..llm.body cimport BodyFacts, answer_problem, scan
from ..wire.head cimport ResponseHead
from ..wire.node_connection cimport NodeConnection
from .plan cimport NodeLink, RoutePlan
from .relay cimport Relay, client_framing, is_opaque, stream_framing
from .sending cimport Sending


@cython.no_gc  # as its base
cdef class Exchange(Sending):
    cdef _refuse_body(self)
    @cython.locals(plan=RoutePlan, facts=BodyFacts, body=bytes)
    cdef _begin(self, double now)
    @cython.locals(
        plan=RoutePlan,
        link=NodeLink,
        upstream=Upstream,
        attempt=Attempt,
        adapter=Adapter,
        rendering=Rendering,
        retry_timeout=double,
        is_last=bint,
    )
    cdef _attempt_next(self, double now)
    @cython.locals(plan=RoutePlan, node=NodeConnection, head=ResponseHead)
    cdef _on_head(self, double now)
    cdef _hold(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint complete, double now)
    @cython.locals(relay=Relay, mask=int)
    cdef _hold_stream(self, bytes data, bint complete, double now)
    cdef bytes _all_held(self, bytes newest)
    cdef _keep(self, bytes content)
    @cython.locals(node=NodeConnection, head=ResponseHead, piece=bytes, body=bytes, expects_json=bint)
    cdef _hold_whole(self, bytes data, bint complete, double now)
    @cython.locals(node=NodeConnection)
    cdef _hold_error(self, bytes data, bint complete, double now)
    @cython.locals(node=NodeConnection, head=ResponseHead)
    cdef _judge_error(self, bint complete, lost, double now)
    cdef bytes _masked(self, bytes body)
    cdef bint _is_callers_key(self, outcome) except -1
    @cython.locals(node=NodeConnection)
    cdef _node_done(self, bint complete)
    cdef _refused_by(self, outcome, bytes body, double now)
    @cython.locals(attempt=Attempt)
    cdef _end_attempt_refused(self, outcome, bytes body, double now)
    @cython.locals(relay=Relay, data=bytes)
    cdef _end_attempt_by_event(self, double now)
    cdef _connect_anew(self, double now)
    @cython.locals(attempt=Attempt)
    cdef _failed(self, error, double now)
    @cython.locals(node=NodeConnection)
    cdef _move_on(self, retryable, double now)
    @cython.locals(
        node=NodeConnection,
        head=ResponseHead,
        relay=Relay,
        framing=cython.longlong,
        out=bytes,
        attempt=Attempt,
    )
    cdef _commit(self, bytes content, bint complete, double now)
    @cython.locals(relay=Relay)
    cdef _commit_again(self, bytes content, bint complete, double now)
    @cython.locals(relay=Relay, link=NodeLink)
    cdef _watch_stream(self)
    @cython.locals(relay=Relay, out=bytes)
    cdef bint _resume(self, str code, double now) except -1
    cdef bint _is_callers_error(self, Relay relay) except -1
    @cython.locals(link=NodeLink)
    cdef _ask_whole_question(self, double now)
    @cython.locals(node=NodeConnection, content=bytes, status=int)
    cdef _relay_first(self, bytes data, bint complete, double now)
    cpdef on_tick(self, double now)
    cdef bint _may_leave_node(self) except -1
    @cython.locals(node=NodeConnection)
    cdef _failed_by_clock(self, double now)


cdef int _READING, _CONNECTING, _WAITING, _HOLDING, _REFUSED, _RELAYING, _DONE
cdef int _FIRST_CONTENT, _SILENT, _ERROR
cdef int _NO_BODY, _CHUNKED_BODY, _UNTIL_CLOSE, _JOIN_BYTES, _NO_SUCCESS
