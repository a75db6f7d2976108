"""C types of framing.pyx."""

from libc.stdint cimport uint8_t


cdef struct span_t:
    Py_ssize_t start
    Py_ssize_t end


cdef class BodyFramer:
    cdef long long _remaining
    cdef int _mode
    cdef int _state
    cdef int _digits
    cdef Py_ssize_t _extra_bytes
    cdef Py_ssize_t _capacity
    cdef span_t *spans
    cdef readonly Py_ssize_t count
    cdef readonly bint complete
    cdef readonly bint is_chunked
    cdef readonly bint is_verbatim
    cpdef void expect(self, long long body_bytes)
    cpdef void complete_at_eof(self)
    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t start) except -1
    cdef int _count_extra(self, uint8_t c) except -1
    cdef int _add_span(self, Py_ssize_t start, Py_ssize_t end) except -1
    cpdef bytes decoded(self, bytes data)
    cpdef Py_ssize_t span_start(self, Py_ssize_t index) except -1
    cpdef Py_ssize_t span_end(self, Py_ssize_t index) except -1
