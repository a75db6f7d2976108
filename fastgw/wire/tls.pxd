"""C types of tls.py: what the node connection calls once per read and once per write."""

cimport cython


cdef class TlsContext:
    cdef readonly object ca_file
    cdef object _context
    cdef object _clock
    cdef dict _sessions
    cdef dict _copied_at

    cpdef TlsSession new_session(self, str server_hostname)


cdef class TlsSession:
    cdef readonly str server_hostname
    cdef readonly bint established
    cdef readonly bint at_eof
    cdef readonly object failure
    cdef TlsContext _context
    cdef tuple _offered
    cdef int _saves_left
    cdef bint _has_read
    # OpenSSL's side
    cdef object _ssl
    cdef object _ssl_read
    cdef object _ssl_write
    cdef object _ssl_pending
    cdef object _incoming
    cdef object _incoming_write
    cdef object _outgoing
    cdef object _outgoing_read
    cdef Py_ssize_t _replied
    cdef bint _holds_part
    cdef object _backlog
    cdef Py_ssize_t _backlog_at

    # Handshake
    cpdef bytes start(self)
    cpdef bint handshake(self) except? -1
    # Reading
    cpdef object feed(self, object data)
    @cython.locals(size=Py_ssize_t, full=bint, first=bytes, more=list, chunk=bytes)
    cpdef bytes read(self)
    cpdef bint eof_received(self) except? -1
    @cython.locals(end=Py_ssize_t)
    cdef bint _refill(self) except? -1
    cdef object _fail(self, object error)
    # Writing
    @cython.locals(size=Py_ssize_t, written=Py_ssize_t)
    cpdef bytes encrypt(self, object data)
    @cython.locals(out=bytes)
    cpdef bytes outgoing(self)
    @cython.locals(at=Py_ssize_t)
    cdef bytes _encrypt_long(self, object data)
    # Closing
    cpdef object save_session(self)
    cpdef bytes shutdown(self)
