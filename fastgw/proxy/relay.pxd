import cython

from ..llm.sse cimport EventScanner
from ..wire.head cimport BodyFramer


cdef class Relay:
    cdef public BodyFramer framer
    cdef public bint is_chunked
    cdef public bint is_same_framing
    cdef public EventScanner scanner
    cdef public bytes tail
    cdef public Py_ssize_t pending
    cdef public int mask
    cdef public bint is_mid_event
    cdef public bint has_error
    cdef public int before_error
    cdef public int malformed

    @cython.locals(framer=BodyFramer, scanner=EventScanner, mask=int, index=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t)
    cdef _scan(self, bytes data)
    @cython.locals(framer=BodyFramer)
    cpdef bytes take(self, bytes data)
    @cython.locals(pending=Py_ssize_t)
    cdef bytes _whole_events(self, bytes content)
    @cython.locals(scanner=EventScanner, kind=int, start=Py_ssize_t, end=Py_ssize_t)
    cdef bytes _without_malformed(self, bytes content)
    cpdef bytes wrap(self, bytes content, bint complete)
    @cython.locals(framer=BodyFramer)
    cpdef bytes pass_on(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cpdef bytes finish(self, bytes data)
    cdef _scan_end(self)
    cpdef bint shows_progress(self)
    cpdef bint is_ended(self)
    cpdef bint is_broken(self)


cdef int _PROGRESS, _RARE, _MALFORMED, _ERROR, _END
