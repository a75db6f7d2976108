import cython

from ..balancing.retry cimport computes_answer, endpoint_of
from ..balancing.upstream cimport Attempt, Upstream
from ..llm.adapter cimport Rendering
from ..llm.body cimport BodyFacts
from ..wire.client_connection cimport ClientConnection
from ..wire.events cimport ExchangeEvents
from ..wire.head cimport RequestHead, ResponseHead, chunk_of
from ..wire.node_connection cimport NodeConnection
from .exchanges cimport Exchanges
from .held_body cimport HeldBody
from .plan cimport NodeLink, RoutePlan
from .relay cimport Relay


@cython.no_gc  # no cycle keeps it: its connections and its dial let go of it when it ends
cdef class Answering(ExchangeEvents):
    cdef public Exchanges exchanges
    cdef public ClientConnection client
    cdef public RequestHead head
    cdef public RoutePlan plan
    cdef public bytes request_id
    cdef public double started_at
    cdef public int phase
    cdef public bytes method
    cdef public bytes target
    cdef public bytes path
    cdef public list extra
    cdef public object extra_drop
    cdef public str consumer
    cdef public HeldBody body
    cdef public bint is_streaming_body
    cdef public bint body_complete
    cdef public BodyFacts facts
    cdef public bint wants_stream
    cdef public Attempt attempt
    cdef public NodeLink link
    cdef public NodeConnection node
    cdef public object dial
    cdef public object tried
    cdef public int attempts
    cdef public int uncertain  # number of the record of an attempt that may have run, not the last; 0: none
    cdef public bint is_fresh_retry
    cdef public double attempt_started
    cdef public double sent_at
    cdef public double asked_at
    cdef public double verdict_by
    cdef public double share_deadline
    cdef public double phase_deadline
    cdef public double total_deadline
    cdef public bint is_hurried
    cdef public double own_limit_s
    cdef public double node_stalled_at
    cdef public Py_ssize_t node_unsent
    cdef public Rendering rendering
    cdef public tuple changes
    cdef public tuple misfits
    cdef public Relay relay
    cdef public list held
    cdef public long long answer_held
    cdef public int status
    cdef public int node_status
    cdef public long long sent_bytes
    cdef public bint keep_alive
    cdef public bint ends_by_close
    cdef public double first_content_at
    cdef public double last_byte_at
    cdef public double last_progress_at
    cdef public double client_stalled_at
    cdef public object failure
    cdef public tuple refusal
    cdef public ResponseHead refusal_head
    cdef public bytes answer
    cdef public tuple records
    cdef public str note
    cdef public object resumption
    cdef public bint is_upgrade

    cpdef begin(
        self,
        Exchanges exchanges,
        ClientConnection client,
        RequestHead head,
        RoutePlan plan,
        bytes request_id,
        double now,
    )
    cdef _record(self, str outcome, double now)
    @cython.locals(node=NodeConnection)
    cdef _end_attempt_ignored(self, double now)
    cdef bint _was_idle(self, NodeConnection node, double now) except -1
    @cython.locals(plan=RoutePlan, link=NodeLink, own=bytes, attempts=int)
    cdef bytes _render_head(self, ResponseHead head, long long framing, bytes content)
    @cython.locals(relay=Relay)
    cdef _relay_read(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint complete, double now)
    @cython.locals(client=ClientConnection)
    cdef _send_to_client(self, bytes out, double now)
    @cython.locals(relay=Relay)
    cdef _finish_relay(self, bytes out, bytes content, double now)
    cdef bint _is_whole(self, Relay relay) except -1
    @cython.locals(attempt=Attempt)
    cdef _send_whole(self, bytes out, double now)
    @cython.locals(relay=Relay)
    cdef _interrupted(self, error, double now)
    cdef _interrupt(self, str code, double now)
    cdef bint _resume(self, str code, double now) except -1
    @cython.locals(node=NodeConnection)
    cdef _end_attempt_by(self, str code, double now)
    cdef _end_attempt_by_event(self, double now)
    @cython.locals(relay=Relay, event=bytes)
    cdef _end_broken(self, str code)
    cpdef bint takes_switch(self, head) except -1
    cdef _open_tunnel(self, bytes first, double now)
    @cython.locals(plan=RoutePlan, relay=Relay)
    cdef _tick_relaying(self, double now)
    cpdef on_tick(self, double now)
    cpdef on_shutdown(self)
    cpdef on_overload(self)
    cdef _stop(self, error)
    cpdef bint on_request_refused(self, error) except -1
    cdef bint _awaits_verdict(self, Upstream upstream, double now) except -1
    cdef _give_up(self, double now)
    cdef _misfit_error(self, double wait)
    cdef double _next_recovery(self, Upstream upstream, double now) except? -1
    cdef tuple _scopes(self, BodyFacts facts)
    @cython.locals(out=bytes)
    cdef _answer_refusal(self, tuple refusal, double wait)
    cpdef _answer_error(self, error, double wait=*)
    cdef _answer(self, int status, bytes body, list fields)
    cdef _end(self, bint keep_alive, double now)
    cpdef end_tunnel(self, str code, double now)
    cdef _finished(self)


cdef int _READING, _CONNECTING, _RELAYING, _DONE
cdef int _NO_BODY, _UNTIL_CLOSE, _MALFORMED
