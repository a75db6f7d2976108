"""Writing to a socket at once: what a transport's ``write`` costs is spared while nothing waits in it.

A transport takes some 1,100 instructions to hand a message to the kernel; ``send`` alone takes a
tenth. What the socket does not take goes through the transport, which waits until it does, and so
does all that follows until the transport has nothing left.

Source: send(2).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno

from .head cimport part

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL


cdef class Outlet:
    """The way out of one connection. Its owner writes to the transport through it only.

    The owner says so when the connection is ``lost``: the descriptor may be another's then.

    Args:
        transport: of a connected socket; without one that it names, everything goes through it.
    """

    def __init__(self, transport):
        sock = transport.get_extra_info("socket")
        self.transport = transport
        self.fd = -1 if sock is None else sock.fileno()

    cpdef write(self, bytes data):
        """Send bytes, in order; what the socket does not take now waits in the transport."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef ssize_t sent = 0
        if self.transport is None:
            return
        if self.fd >= 0 and not self.unsent():
            sent = send(self.fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL)
            while sent < 0 and errno == EINTR:
                sent = send(self.fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == size:
                return
            # An error is met by the transport too, which then says that the connection is lost.
            sent = max(sent, 0)
        self.is_waiting = True
        self.transport.write(data if sent == 0 else part(data, sent, size))

    cpdef lost(self):
        """The connection has ended: nothing is written any more."""
        self.fd = -1
        self.is_waiting = False
        self.transport = None

    cpdef Py_ssize_t unsent(self) except -1:
        """How many bytes the socket has not taken yet."""
        cdef Py_ssize_t waiting = 0
        if self.is_waiting:
            waiting = self.transport.get_write_buffer_size()
            self.is_waiting = waiting > 0
        return waiting
