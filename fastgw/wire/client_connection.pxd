import cython

from .events cimport ExchangeEvents
from .framing cimport BodyFramer
from .head cimport Limits, RequestHead, joined, part, scan_request
from .outlet cimport Outlet


cdef class ClientConnection(_Base)


cdef class Listener:
    cdef public object accept
    cdef public object refuse
    cdef public Limits limits
    cdef public Py_ssize_t max_connections
    cdef public Py_ssize_t crowded_at
    cdef public Py_ssize_t max_connections_per_client
    cdef public double head_timeout_s
    cdef public double body_stall_s
    cdef public long long min_body_rate
    cdef public double keepalive_s
    cdef public list connections
    cdef public Py_ssize_t closed
    cdef public object on_full
    cdef public Py_ssize_t max_descriptor
    cdef public bint is_draining
    cdef public long long accepted
    cdef public long long refused_connections
    cdef public long long slow_evicted
    cdef public long long idle_evicted
    cdef public dict _per_client
    cdef public object _unasked
    cdef public list _idle
    cdef public double _sorted_at
    cdef public list _ending
    cdef Py_ssize_t _swept

    @cython.locals(room=double, wait_s=double, connection=ClientConnection)
    cpdef bint evict(self, double now, bint spares_idle=*) except -1
    cpdef bint evict_idle(self, double now) except -1
    @cython.locals(deadline=double, connection=ClientConnection, is_idle=bint)
    cdef bint _evict_idle(self, double now, double latest) except -1
    cdef join(self, ClientConnection connection)
    @cython.locals(last=ClientConnection)
    cdef leave(self, ClientConnection connection)
    @cython.locals(ending=list, connection=ClientConnection)
    cpdef bint sweep(self, double now) except -1


cdef class _Base:
    cdef object __weakref__


cdef class ClientConnection(_Base):
    cdef public Listener listener
    cdef public Limits limits
    cdef public object transport
    cdef public Outlet outlet
    cdef public ExchangeEvents exchange
    cdef public RequestHead head
    cdef public BodyFramer framer
    cdef public object parser
    cdef public int state
    cdef public double deadline
    cdef public double opened_at
    cdef public double read_at
    cdef public bint is_paused
    cdef public bytes buffer
    cdef public bint message_ended
    cdef public Py_ssize_t lingered
    cdef public long long requests
    cdef public bint reading_stopped
    cdef public bint answer_begun
    cdef public Py_ssize_t unsent
    cdef public double rate_due
    cdef public long long rate_bytes
    cdef public str address
    cdef public bint is_counted
    cdef public bint is_tunnel
    cdef public Py_ssize_t place

    cpdef bytes become_tunnel(self)
    @cython.locals(exchange=ExchangeEvents)
    cdef _keep_for_later(self, bytes data)
    @cython.locals(
        head=RequestHead, framer=BodyFramer, start=Py_ssize_t, end=Py_ssize_t, exchange=ExchangeEvents
    )
    cdef _read_head(self, bytes data)
    cdef bint _validate(self, data, bint is_end) except -1
    @cython.locals(head=RequestHead)
    cdef bytes _plain_head(self)
    @cython.locals(framer=BodyFramer, end=Py_ssize_t, complete=bint, exchange=ExchangeEvents)
    cdef _read_body(self, bytes data, Py_ssize_t start)
    cdef bint _is_too_slow(self) except -1
    cdef _refuse(self, error)
    @cython.locals(unsent=Py_ssize_t)
    cpdef on_deadline(self, double now)
    cpdef close(self)
    cpdef evict(self)
    cdef _is_asked(self)
    cdef _enter_closed(self)
    cdef _set_closed(self)
    cpdef abort(self)
    cpdef stop_reading(self)
    cpdef go_on_reading(self)
    cdef _read_on(self)
    cpdef send(self, bytes data)
    cpdef send_interim(self, bytes data)
    cpdef bint keeps_alive(self)
    cdef _go_on(self)
    cpdef finish(self, bint keep_alive, double now)
    cdef _close_politely(self)
    cpdef end_unclean(self, bint by_reset)
    cpdef bint has_left(self) except -1


cdef int _IDLE, _HEAD, _BODY, _ANSWERING, _LINGERING, _CLOSED
cdef double _WAIT_S, _HEAD_WAIT_S
