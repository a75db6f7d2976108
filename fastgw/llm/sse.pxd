"""C types of sse.py. The buffer a function gets as ``p`` is borrowed: valid inside the call only."""

cimport cython

cdef int _CONTENT, _REASONING, _TOOL_CALL, _ROLE, _USAGE, _FINISH, _COMMENT, _BLANK
cdef int _ERROR, _DONE, _MALFORMED, _LIFECYCLE, _OTHER
cdef int _SEEN_MODEL, _SEEN_USAGE, _SEEN_DELTA, _SEEN_CHOICES, _SEEN_TYPE, _SEEN_OBJECT
cdef int _SEEN_TEXT, _SEEN_MESSAGE, _SEEN_FINISH, _SEEN_CONTENT, _SEEN_REFUSAL
cdef int _SEEN_REASONING, _SEEN_REASONING_CONTENT, _SEEN_TOOL_CALLS
cdef int _MAX_DEPTH
cdef Py_ssize_t _MAX_MODEL
cdef Py_ssize_t _MAX_NUMBER
cdef Py_ssize_t _MAX_KNOWN
cdef dict _DELTA_TYPES

cdef Py_ssize_t _skip_space(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int, low=int, high=int, size=Py_ssize_t)
cdef Py_ssize_t _skip_utf8(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int, k=Py_ssize_t)
cdef Py_ssize_t _skip_escape(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(k=Py_ssize_t, special=cython.uchar)
cdef Py_ssize_t _skip_plain(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int, far=Py_ssize_t)
cdef Py_ssize_t _skip_string(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int)
cdef Py_ssize_t _skip_key(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _skip_colon(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _skip_comma(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(k=Py_ssize_t)
cdef Py_ssize_t _skip_word(
    const unsigned char *p, Py_ssize_t i, Py_ssize_t end, const unsigned char *word, Py_ssize_t size
) noexcept


@cython.locals(start=Py_ssize_t)
cdef Py_ssize_t _skip_digits(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(start=Py_ssize_t)
cdef Py_ssize_t _skip_number(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int)
cdef Py_ssize_t _skip_value(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, int depth) noexcept


@cython.locals(is_object=bint, close=int)
cdef Py_ssize_t _skip_container(const unsigned char *p, Py_ssize_t i, Py_ssize_t end, int depth) noexcept


@cython.locals(k=Py_ssize_t)
cdef bint _is_word(
    const unsigned char *p, Py_ssize_t i, const unsigned char *word, Py_ssize_t size
) noexcept


@cython.locals(k=Py_ssize_t, difference=cython.uchar)
cdef bint _is_same(
    const unsigned char *p, Py_ssize_t i, const unsigned char *q, Py_ssize_t j, Py_ssize_t size
) noexcept
cdef Py_ssize_t _skip_text(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _find_line_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


cdef class EventScanner:
    cdef readonly int seen
    cdef readonly int kind
    cdef readonly Py_ssize_t boundary
    cdef readonly bytes error_data
    cdef readonly bytes usage_data
    cdef readonly str model
    cdef Py_ssize_t _max_event_bytes
    cdef bytearray _partial
    cdef Py_ssize_t _partial_bytes
    cdef list _lines
    cdef Py_ssize_t _event_bytes
    cdef bint _in_event
    cdef bint _is_oversized
    cdef bint _is_error_event
    cdef bint _at_start
    cdef bint _after_cr
    cdef int _found
    cdef Py_ssize_t _model_start
    cdef Py_ssize_t _model_end
    cdef Py_ssize_t _text_start
    cdef Py_ssize_t _text_end
    cdef Py_ssize_t _filler_start
    cdef Py_ssize_t _filler_end
    cdef bytes _known
    cdef int _known_kind
    cdef Py_ssize_t _known_text_start
    cdef Py_ssize_t _known_text_end
    cdef Py_ssize_t _known_filler_start
    cdef Py_ssize_t _known_filler_end

    # Reading
    @cython.locals(kinds=int, boundary=Py_ssize_t, i=Py_ssize_t)
    cpdef int feed(self, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

    @cython.locals(
        p=cython.p_uchar, i=Py_ssize_t, after=Py_ssize_t, line_end=Py_ssize_t, size=Py_ssize_t, line=bytes
    )
    cpdef Py_ssize_t feed_event(self, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

    @cython.locals(kind=int, size=Py_ssize_t, line=bytes)
    cpdef int feed_eof(self) except -1

    # Lines
    @cython.locals(room=Py_ssize_t)
    cdef void _keep_partial(self, bytes data, Py_ssize_t i, Py_ssize_t end) except *

    @cython.locals(p=cython.p_uchar)
    cdef int _read_line(self, bytes data, Py_ssize_t i, Py_ssize_t end, Py_ssize_t size) except -1
    cdef Py_ssize_t _skip_field_name(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept

    @cython.locals(lines=list, is_error=bint, is_oversized=bint, data=bytes)
    cdef int _end_event(self) except -1

    # Meaning
    @cython.locals(kind=int)
    cdef int _classify(self, bytes data, bint is_error) except -1
    cdef int _parse(self, bytes data) except -1
    cdef int _take_error(self, bytes data) except -1
    cdef void _take_model(self, const unsigned char *p) except *
    cdef void _keep_model(self, object model) except *

    # The walker
    cdef bint _may_match(self) noexcept

    @cython.locals(start=Py_ssize_t)
    cdef Py_ssize_t _match_event(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) except -2

    cdef void _know(self, const unsigned char *p, Py_ssize_t start, Py_ssize_t after) except *

    @cython.locals(
        known=bytes, q=cython.p_uchar, size=Py_ssize_t, text=Py_ssize_t, after=Py_ssize_t, at=Py_ssize_t
    )
    cdef Py_ssize_t _match_known(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) except -2

    @cython.locals(i=Py_ssize_t)
    cdef bint _walk_whole(self, const unsigned char *p, Py_ssize_t end) except -1

    @cython.locals(
        seen=int, name=int, size=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t,
        type_start=Py_ssize_t, type_end=Py_ssize_t, has_delta=bint, kind=object
    )
    cdef Py_ssize_t _walk(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) except -2
    cdef Py_ssize_t _walk_choices(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept

    @cython.locals(seen=int, name=int, size=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t)
    cdef Py_ssize_t _walk_choice(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept

    @cython.locals(last=Py_ssize_t, backslashes=Py_ssize_t)
    cdef void _note_arguments(self, const unsigned char *p, Py_ssize_t i) noexcept

    @cython.locals(seen=int, name=int, kind=int, size=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t)
    cdef Py_ssize_t _walk_delta(self, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
