import cython

from .events cimport ConnectionOwner, ExchangeEvents
from .framing cimport BodyFramer
from .head cimport Limits, ResponseHead, joined, part, scan_response
from .outlet cimport Outlet
from .tls cimport TlsSession


cdef class _Base:
    cdef object __weakref__


cdef class NodeConnection(_Base):
    cdef public ConnectionOwner pool
    cdef public TlsSession tls
    cdef public Limits limits
    cdef public object transport
    cdef public Outlet outlet
    cdef public ExchangeEvents exchange
    cdef public ResponseHead head
    cdef public BodyFramer framer
    cdef public object parser
    cdef public object waiter
    cdef public int state
    cdef public bytes buffer
    cdef public long long served
    cdef public long long answer_bytes
    cdef public int interim
    cdef public Py_ssize_t interim_bytes
    cdef public bint is_head_request
    cdef public bint request_complete
    cdef public object failure
    cdef public bint message_ended
    cdef public bint is_validated
    cdef public bint is_paused
    cdef public bint reading_stopped
    cdef public double read_at
    cdef public double born
    cdef public double idle_since

    cdef bint _shake_hands(self) except -1
    cdef _send_alert(self)
    cdef _opening_failed(self, error)
    cdef _ended(self, error)
    cdef bint _is_until_close(self)
    cpdef abort(self)
    cpdef close(self)
    cpdef start(self, ExchangeEvents exchange, bytes head, list body, bint is_head_request)
    cpdef send(self, bytes data)
    @cython.locals(tls=TlsSession, out=bytes)
    cdef _send_encrypted(self, data)
    cdef _said_goodbye(self)
    cdef _fail(self, error)
    @cython.locals(
        framer=BodyFramer,
        begin=Py_ssize_t,
        start=Py_ssize_t,
        end=Py_ssize_t,
        is_begun=bint,
        has_body=bint,
        head=ResponseHead,
        exchange=ExchangeEvents,
    )
    cdef _read_answer(self, bytes data)
    @cython.locals(start=Py_ssize_t, head=ResponseHead)
    cdef Py_ssize_t _read_head(self, bytes data) except? -2
    cdef _validate(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _validate_switch(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(framer=BodyFramer)
    cdef _frame(self, ResponseHead head)
    @cython.locals(exchange=ExchangeEvents, head=ResponseHead, reusable=bint, is_sent=bint)
    cdef _complete(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef bint _is_unsent(self) except -1
    cpdef stop_reading(self)
    cpdef go_on_reading(self)
    cpdef bint is_fresh(self, double now) except -1


cdef int _OPENING, _IDLE, _BUSY, _CLOSED
