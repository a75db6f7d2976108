cdef class ConnectionOwner:
    cdef public long long unsolicited
    cpdef give_back(self, connection, double now)
    cpdef forget(self, connection)


cdef class ExchangeEvents:
    cpdef on_request_read(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint complete)
    cpdef on_client_gone(self)
    cpdef bint on_request_refused(self, error) except -1
    cpdef on_client_writable(self)
    cpdef on_node_connected(self, connection)
    cpdef on_connect_failed(self, error)
    cpdef on_node_read(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint complete)
    cpdef on_node_lost(self, error)
    cpdef on_node_writable(self)
    cpdef bint takes_switch(self, head) except -1
