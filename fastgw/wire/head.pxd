from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    INLINE_FIELDS = 22  # so that a head fits into Python's allocator for small objects


cdef struct field_t:
    uint32_t name
    uint32_t value
    uint32_t value_len
    uint16_t name_len
    uint8_t drop        # hop-by-hop, or named by Connection
    uint8_t is_plain    # written as we write it: "name: value" and CRLF


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
    cdef readonly Py_ssize_t size
    cdef readonly int minor_version
    cdef readonly long long content_length
    cdef readonly bint is_chunked
    cdef readonly bint keep_alive
    cdef readonly Py_ssize_t end
    cdef Py_ssize_t field_count
    cdef Py_ssize_t capacity
    cdef field_t *fields
    cdef field_t inline_fields[INLINE_FIELDS]

    cdef int _grow(self) except -1
    cdef Py_ssize_t _find(self, const char *name, Py_ssize_t length) noexcept
    cpdef bytes get(self, bytes name)
    cpdef bint names(self, bytes name)


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
        bytes body=*,
    )


cdef class ResponseTemplate:
    cdef FieldFilter _drop
    cpdef bytes render(
        self,
        ResponseHead head,
        long long body_bytes,
        bint keep_alive,
        int client_minor,
        bytes extra,
        bytes request_id=*,
        int attempts=*,
        bytes body=*,
    )


cpdef enum:
    NO_BODY = -1
    CHUNKED_BODY = -2
    UNTIL_CLOSE = -3


cdef uint8_t TCHAR[256]
cdef uint8_t VCHAR[256]

cpdef bytes part(bytes data, Py_ssize_t start, Py_ssize_t end)
cpdef bytes joined(bytes first, bytes second)
cpdef bytes numbered(bytes prefix, long long number)
cpdef bytes chunk_of(bytes content, bint is_last)
