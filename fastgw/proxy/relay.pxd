import cython

from ..llm.sse cimport EventScanner
from ..wire.framing cimport BodyFramer
from ..wire.head cimport RequestHead, ResponseHead, chunk_of, joined, part


cpdef bint is_opaque(ResponseHead head) except -1
cpdef long long stream_framing(RequestHead request) except? -9
cpdef long long client_framing(ResponseHead head, RequestHead request) except? -9


cdef class Relay:
    cdef public BodyFramer framer
    cdef public bint is_chunked
    cdef public bint is_same_framing
    cdef public EventScanner scanner
    cdef public object redactor
    cdef public bytes tail
    cdef public Py_ssize_t pending
    cdef public int mask
    cdef public list rare
    cdef public bint is_mid_event
    cdef public bint has_error
    cdef public int before_error
    cdef public object outcome
    cdef public int malformed
    cdef public object filter
    cdef public bytes error_event

    # Content
    @cython.locals(
        framer=BodyFramer,
        scanner=EventScanner,
        mask=int,
        kind=int,
        index=Py_ssize_t,
        at=Py_ssize_t,
        end=Py_ssize_t,
        last=Py_ssize_t,
        total=Py_ssize_t,
    )
    cdef _scan(self, bytes data)
    cdef _note_rare(self, Py_ssize_t start, Py_ssize_t end, int kind, int before)
    @cython.locals(framer=BodyFramer)
    cpdef bytes take(self, bytes data)
    @cython.locals(whole=Py_ssize_t, rest=bytes)
    cdef bytes _whole_events(self, bytes content)
    @cython.locals(at=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, kind=int)
    cdef bytes _without_rare(self, bytes content)
    cdef bytes _filtered(self, bytes content)
    cdef bytes _with_error(self, bytes before, bytes event)
    cdef bytes _masked(self, bytes content)
    @cython.locals(size=Py_ssize_t)
    cpdef bytes masked_part(self, bytes content, bint complete)
    # Framing
    cpdef bytes wrap(self, bytes content, bint complete)
    @cython.locals(framer=BodyFramer)
    cpdef bytes pass_on(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(content=bytes)
    cpdef bytes finish(self, bytes data)
    @cython.locals(scanner=EventScanner, kind=int, tail=bytes)
    cdef bytes _last_event(self)
    # What it was
    cpdef bint shows_progress(self)
    cpdef bint is_ended(self)
    cpdef bint is_broken(self)
    cpdef error_outcome(self)


cdef int _PROGRESS, _RARE, _MALFORMED, _ERROR, _END
