import cython

from ..wire.head cimport part
from .exchanges cimport Exchanges


@cython.no_gc
cdef class HeldBody:
    cdef public Exchanges exchanges
    cdef public bytes data
    cdef public list pieces
    cdef public long long size
    cdef public long long held

    cpdef add(self, bytes piece)
    @cython.locals(size=Py_ssize_t)
    cpdef add_part(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(exchanges=Exchanges)
    cpdef bint is_too_large(self, long long content_length) except -1
    cpdef bint is_all_held(self) noexcept
    cpdef join(self)
    cpdef list take(self)
    cpdef drop(self)


cdef int _VIEW_BYTES
