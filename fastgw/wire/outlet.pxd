"""C types of outlet.pyx."""


cdef class Outlet:
    cdef object transport
    cdef int fd
    cdef bint is_waiting  # something may wait in the transport

    cpdef write(self, bytes data)
    cpdef write_all(self, list parts)
    cdef Py_ssize_t send_now(self, list parts) except -1
    cpdef lost(self)
    cpdef Py_ssize_t unsent(self) except -1
