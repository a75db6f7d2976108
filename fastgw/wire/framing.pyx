"""The framing of message bodies: where one ends, and where its content lies in the raw bytes.

Source: RFC 9112 (Content-Length, chunked coding, trailers, close-delimited bodies).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from .head cimport CHUNKED_BODY, NO_BODY, TCHAR, UNTIL_CLOSE, VCHAR, part
from .target cimport hex_digit

cdef enum:
    CHUNK_SIZE
    CHUNK_EXTENSION
    CHUNK_SIZE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF
    TRAILER_START
    TRAILER_NAME
    TRAILER_LINE
    TRAILER_LF
    TRAILER_END_LF
    FINISHED

cdef enum:
    MAX_EXTENSION_BYTES = 16 * 1024  # of all chunk extensions and trailers of one message
    USUAL_SPANS = 16
    KEPT_SPANS = 256  # room kept from message to message; more of it is given back


cdef class BodyFramer:
    """Finds the end of a message's body in the raw bytes, and where its content lies in them.

    After each ``feed`` the ``count`` spans are the pieces of content in that data.
    ``is_verbatim`` says that what was fed may be passed on as it is: it began and ended between
    two chunks and held no extension and no trailer.
    """

    def __cinit__(self):
        self._capacity = USUAL_SPANS
        self.spans = <span_t *>PyMem_Malloc(self._capacity * sizeof(span_t))
        if self.spans == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.spans)

    cpdef void expect(self, long long body_bytes):
        """Begin a message: its size, or NO_BODY, CHUNKED_BODY or UNTIL_CLOSE."""
        cdef span_t *shrunk
        if self._capacity > KEPT_SPANS:
            # One read of the smallest chunks needs more room than the read itself has bytes.
            shrunk = <span_t *>PyMem_Realloc(self.spans, USUAL_SPANS * sizeof(span_t))
            if shrunk != NULL:
                self.spans = shrunk
                self._capacity = USUAL_SPANS
        self.is_chunked = body_bytes == CHUNKED_BODY
        self._mode = 0 if body_bytes >= 0 else <int>body_bytes
        self._remaining = body_bytes if body_bytes > 0 else 0
        self._state = CHUNK_SIZE
        self._digits = 0
        self._extra_bytes = 0
        self.count = 0
        self.is_verbatim = True
        self.complete = body_bytes == 0 or body_bytes == NO_BODY

    cpdef void complete_at_eof(self):
        """The stream has ended, and that is the end of a body without a length."""
        self.count = 0
        self.complete = True

    cdef int _add_span(self, Py_ssize_t start, Py_ssize_t end) except -1:
        cdef span_t *grown
        if self.count == self._capacity:
            grown = <span_t *>PyMem_Realloc(self.spans, 2 * self._capacity * sizeof(span_t))
            if grown == NULL:
                raise MemoryError
            self.spans = grown
            self._capacity *= 2
        self.spans[self.count].start = start
        self.spans[self.count].end = end
        self.count += 1
        return 0

    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t start) except -1:
        """Take data[start:]; return the offset just behind what belongs to this message.

        Raises:
            ValueError: the chunked coding is broken.
        """
        if start < 0 or start > len(data):
            raise ValueError("start is not in the data")
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = len(data), at = start, take
        cdef uint8_t c
        cdef int digit
        self.count = 0
        if self.complete:
            return start
        if self._mode == UNTIL_CLOSE:
            if size > start:
                self._add_span(start, size)
            return size
        if self._mode != CHUNKED_BODY:
            take = size - start
            if take > self._remaining:
                take = <Py_ssize_t>self._remaining
            if take > 0:
                self._add_span(start, start + take)
                self._remaining -= take
            self.complete = self._remaining == 0
            return start + take

        self.is_verbatim = self._state == CHUNK_SIZE and self._digits == 0
        while at < size:
            if self._state == CHUNK_DATA:
                take = size - at
                if take > self._remaining:
                    take = <Py_ssize_t>self._remaining
                self._add_span(at, at + take)
                at += take
                self._remaining -= take
                if self._remaining == 0:
                    self._state = CHUNK_DATA_CR
                continue
            c = text[at]
            at += 1
            if self._state == CHUNK_SIZE:
                digit = hex_digit(c)
                if digit >= 0:
                    self._digits += 1
                    if self._digits > 15:
                        raise ValueError("a chunk size that is too large")
                    self._remaining = self._remaining * 16 + digit
                elif self._digits == 0:
                    raise ValueError("a chunk without a size")
                elif c == c"\r":
                    self._state = CHUNK_SIZE_LF
                elif c == c";":
                    self._state = CHUNK_EXTENSION
                    self.is_verbatim = False
                else:
                    raise ValueError("a malformed chunk size")
            elif self._state == CHUNK_EXTENSION:
                if c == c"\r":
                    self._state = CHUNK_SIZE_LF
                else:
                    self._count_extra(c)
            elif self._state == CHUNK_SIZE_LF:
                if c != c"\n":
                    raise ValueError("a malformed chunk size line")
                self._state = CHUNK_DATA if self._remaining else TRAILER_START
            elif self._state == CHUNK_DATA_CR:
                if c != c"\r":
                    raise ValueError("a chunk longer than its size")
                self._state = CHUNK_DATA_LF
            elif self._state == CHUNK_DATA_LF:
                if c != c"\n":
                    raise ValueError("a chunk longer than its size")
                self._state = CHUNK_SIZE
                self._digits = 0
                self._remaining = 0
            elif self._state == TRAILER_START and c == c"\r":
                self._state = TRAILER_END_LF
            elif self._state == TRAILER_START or self._state == TRAILER_NAME:
                self.is_verbatim = False
                self._count_extra(c)
                if TCHAR[c]:
                    self._state = TRAILER_NAME
                elif c == c":" and self._state == TRAILER_NAME:
                    self._state = TRAILER_LINE
                else:
                    raise ValueError("a malformed trailer")
            elif self._state == TRAILER_LINE:
                if c == c"\r":
                    self._state = TRAILER_LF
                else:
                    self._count_extra(c)
            elif self._state == TRAILER_LF:
                if c != c"\n":
                    raise ValueError("a malformed trailer")
                self._state = TRAILER_START
            elif self._state == TRAILER_END_LF:
                if c != c"\n":
                    raise ValueError("a malformed trailer")
                self._state = FINISHED
                self.complete = True
                return at
        if self._state != CHUNK_SIZE or self._digits:
            self.is_verbatim = False
        return at

    cdef int _count_extra(self, uint8_t c) except -1:
        if not VCHAR[c]:
            raise ValueError("a control character in a chunk extension or trailer")
        self._extra_bytes += 1
        if self._extra_bytes > MAX_EXTENSION_BYTES:
            raise ValueError("too many bytes of chunk extensions and trailers")
        return 0

    cpdef bytes decoded(self, bytes data):
        """The content found by the last feed of ``data``, joined."""
        cdef Py_ssize_t i, size = 0
        cdef bytes joined
        cdef uint8_t *to
        if self.count == 0:
            return b""
        if self.spans[self.count - 1].end > len(data):
            raise ValueError("not the data that was fed last")
        if self.count == 1:
            if self.spans[0].start == 0 and self.spans[0].end == len(data):
                return data
            return part(data, self.spans[0].start, self.spans[0].end)
        for i in range(self.count):
            size += self.spans[i].end - self.spans[i].start
        joined = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t *>PyBytes_AS_STRING(joined)
        for i in range(self.count):
            size = self.spans[i].end - self.spans[i].start
            memcpy(to, PyBytes_AS_STRING(data) + self.spans[i].start, size)
            to += size
        return joined

    cpdef Py_ssize_t span_start(self, Py_ssize_t index) except -1:
        """Where a piece of content begins in the data last fed."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.spans[index].start

    cpdef Py_ssize_t span_end(self, Py_ssize_t index) except -1:
        """Where a piece of content ends in the data last fed."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.spans[index].end
