"""Writing to a socket at once: what a transport's ``write`` costs is spared while nothing waits in it.

A transport takes some 1,100 instructions to hand a message to the kernel; ``send`` alone takes a
tenth. What the socket does not take goes through the transport, which waits until it does, and so
does all that follows until the transport has nothing left.

Source: send(2).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.string cimport memset

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

    struct iovec:
        void *iov_base
        size_t iov_len

    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen

    ssize_t sendmsg(int fd, const msghdr *message, int flags)

cdef enum:
    MOST_PARTS = 8  # of one message


cdef class Outlet:
    """The way out of one connection. Its owner writes to the transport through it only.

    The owner says so when the connection is ``lost``: the descriptor may be another's then.

    Args:
        transport: of a connected socket; without one that it names, or with TLS over it, everything
            goes through the transport.
    """

    def __init__(self, transport):
        sock = transport.get_extra_info("socket")
        self.transport = transport
        is_plain = sock is not None and transport.get_extra_info("sslcontext") is None
        self.fd = sock.fileno() if is_plain else -1

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
        self.transport.write(data if sent == 0 else memoryview(data)[sent:])

    cpdef write_all(self, list parts):
        """Send a few parts, bytes or views of bytes, one behind the other: in one call, without a copy.

        Raises:
            ValueError: more than 8 parts.
        """
        cdef Py_ssize_t sent = 0
        if len(parts) > MOST_PARTS:
            raise ValueError(f"at most {MOST_PARTS} parts")
        if self.transport is None:
            return
        if self.fd >= 0 and not self.unsent():
            sent = self.send_now(parts)
        for piece in parts:
            size = len(piece)
            if sent >= size:
                sent -= size
                continue
            self.is_waiting = True
            self.transport.write(piece if sent == 0 else memoryview(piece)[sent:])
            sent = 0

    cdef Py_ssize_t send_now(self, list parts) except -1:
        """How many bytes of the parts the socket took."""
        cdef Py_buffer views[MOST_PARTS]
        cdef iovec places[MOST_PARTS]
        cdef msghdr message
        cdef ssize_t sent = -1
        cdef int count = 0
        cdef int i
        memset(&message, 0, sizeof(message))
        try:
            for piece in parts:
                PyObject_GetBuffer(piece, &views[count], PyBUF_SIMPLE)
                places[count].iov_base = views[count].buf
                places[count].iov_len = views[count].len
                count += 1
            message.msg_iov = places
            message.msg_iovlen = count
            sent = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            while sent < 0 and errno == EINTR:
                sent = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        finally:
            for i in range(count):
                PyBuffer_Release(&views[i])
        return max(sent, 0)

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
