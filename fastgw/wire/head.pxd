from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef struct field_t:
    uint32_t name
    uint32_t value
    uint32_t value_len
    uint16_t name_len
    uint8_t drop        # hop-by-hop, or named by Connection
    uint8_t _pad


cdef struct span_t:
    Py_ssize_t start
    Py_ssize_t end


cdef class Limits:
    cdef readonly Py_ssize_t line_bytes
    cdef readonly Py_ssize_t head_bytes
    cdef readonly Py_ssize_t fields


cdef class FieldFilter:
    cdef bytes _names
    cdef uint8_t _first[257]    # by length: the first name of it, and how many there are
    cdef uint8_t _count[257]
    cdef uint16_t _offset[255]  # of each name in _names
    cdef Py_ssize_t _size
    cdef list _prefixes
    cdef readonly frozenset names
    cdef bint matches(self, const uint8_t *name, Py_ssize_t length) noexcept


cdef class Head:
    cdef readonly bytes raw
    cdef readonly int minor_version
    cdef readonly long long content_length
    cdef readonly bint is_chunked
    cdef readonly bint keep_alive
    cdef readonly Py_ssize_t end
    cdef Py_ssize_t field_count
    cdef Py_ssize_t capacity
    cdef field_t *fields
    cdef field_t inline_fields[48]

    cdef field_t *_new_field(self) except NULL
    cdef Py_ssize_t _find(self, const char *name, Py_ssize_t length) noexcept
    cpdef bytes get(self, bytes name)


cdef class RequestHead(Head):
    cdef readonly bytes method
    cdef readonly bytes target
    cdef readonly bytes path
    cdef readonly bytes host
    cdef readonly bint expects_continue
    cdef readonly bint wants_upgrade
    cdef readonly bint is_head


cdef class ResponseHead(Head):
    cdef readonly int status
    cdef readonly bint is_event_stream
    cdef readonly bint is_json
    cdef Py_ssize_t reason_start
    cdef Py_ssize_t reason_len


cpdef RequestHead scan_request(bytes data, Py_ssize_t start, Limits limits)
cpdef ResponseHead scan_response(bytes data, Py_ssize_t start, Limits limits)


cdef class RequestTemplate:
    cdef bytes _block
    cdef FieldFilter _drop
    cdef FieldFilter _keep
    cdef readonly bint forwards_host
    cpdef bytes render(
        self,
        RequestHead head,
        bytes method,
        bytes target,
        long long body_bytes,
        bytes extra=*,
        FieldFilter extra_drop=*,
    )


cdef class ResponseTemplate:
    cdef FieldFilter _drop
    cpdef bytes render(
        self, ResponseHead head, long long body_bytes, bint keep_alive, int client_minor, bytes extra
    )


cpdef enum:
    NO_BODY = -1
    CHUNKED_BODY = -2
    UNTIL_CLOSE = -3


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
