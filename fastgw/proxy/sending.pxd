import cython

from ..llm.adapter cimport Rendering
from ..wire.head cimport chunk_of
from ..wire.node_connection cimport NodeConnection
from .choosing cimport Choosing
from .plan cimport NodeLink, RoutePlan


@cython.no_gc  # as its base
cdef class Sending(Choosing):
    @cython.locals(node=NodeConnection)
    cdef _reach(self, NodeLink link, double now)
    @cython.locals(timeout=double)
    cdef _connect(self, double now)
    @cython.locals(
        plan=RoutePlan,
        link=NodeLink,
        length=cython.longlong,
        body=bytes,
        rendering=Rendering,
        head=bytes,
        parts=list,
        joined_body=bytes,
        extra=bytes,
        target=bytes,
        is_head=bint,
    )
    cdef _send(self, NodeConnection node, double now)
    cdef tuple _render_again(self, bytes body)
    cdef _send_piece(self, bytes piece)
    cdef _end_body(self)
    cdef _on_stall(self, NodeConnection node, double now)
    @cython.locals(unsent=Py_ssize_t)
    cdef bint _takes_request(self, NodeConnection node, double now) except -1
    cdef bint _is_going_out(self) noexcept
    cdef _begin_clock(self)
    cdef double _answer_deadline(self) noexcept


cdef int _NO_BODY, _CHUNKED_BODY, _JOIN_BYTES
cdef int _CONNECTING, _WAITING, _HOLDING
