import cython

from .events cimport ConnectionOwner
from .node_connection cimport NodeConnection


cdef class Pool(ConnectionOwner):
    cdef public object resolver
    cdef public str host
    cdef public int port
    cdef public object tls
    cdef public str server_name
    cdef public object settings
    cdef public Py_ssize_t max_idle
    cdef public long long max_requests
    cdef public object limits
    cdef public list idle
    cdef public set busy
    cdef public set dials
    cdef public dict place_of
    cdef public tuple places
    cdef public set outdated
    cdef public long long opened
    cdef public long long reused
    cdef public long long stale
    cdef public bint is_closed
    cdef object __weakref__

    @cython.locals(connection=NodeConnection)
    cpdef NodeConnection take(self, double now)
    @cython.locals(given=NodeConnection)
    cpdef give_back(self, connection, double now)
    cpdef forget(self, connection)
