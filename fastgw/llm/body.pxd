"""C types of body.py. The buffer a function gets as ``p`` is borrowed: valid inside the call only."""

cimport cython

cimport fastgw.llm.byte_search as byte_search

cdef Py_ssize_t _MAX_DEPTH
cdef int _NONE, _MODEL, _STREAM, _STREAM_OPTIONS, _ERROR, _CHOICES, _OUTPUT, _OBJECT, _MESSAGES, _TOOLS
cdef int _MAX_TOKENS, _PLAIN, _STATUS
cdef unsigned int _HAS_MESSAGES, _HAS_MAX_TOKENS, _HAS_THINKING, _HAS_REASONING_EFFORT
cdef unsigned int _HAS_RESPONSE_FORMAT, _HAS_TOOLS, _HAS_TOOL_CHOICE, _HAS_LOGPROBS, _HAS_USER_ID
cdef unsigned int _HAS_STREAM_OPTIONS, _HAS_FOREIGN, _HAS_DEVELOPER, _HAS_REASONING_CONTENT
cdef unsigned int _HAS_TOOL_CALLS, _HAS_IMAGE, _HAS_AUDIO, _HAS_FILE, _HAS_FUNCTION_CALL, _HAS_PREFIX
cdef unsigned int _HAS_STRICT, _HAS_CUSTOM, _ALL_TRAITS, _IS_BROKEN_OFF, _MARK_SIZES


@cython.final
cdef class BodyFacts:
    cdef readonly str model
    cdef readonly Py_ssize_t model_start
    cdef readonly Py_ssize_t model_end
    cdef readonly bint duplicate_model
    cdef readonly bint stream
    cdef readonly bint include_usage
    cdef readonly unsigned int traits


@cython.locals(facts=BodyFacts)
cdef BodyFacts _no_facts()


@cython.locals(
    p=cython.p_uchar, end=Py_ssize_t, i=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t,
    key_end=Py_ssize_t, name=int, has_model=bint, facts=BodyFacts, model=str, marks=cython.uint
)
cpdef BodyFacts scan(bytes body)


@cython.locals(parts=list)
cpdef bytes replace_model(bytes body, BodyFacts facts, str model)


@cython.locals(start=Py_ssize_t, end=Py_ssize_t)
cpdef list replaced_parts(bytes body, BodyFacts facts, str model)


@cython.locals(
    p=cython.p_uchar, end=Py_ssize_t, i=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t,
    name=int, has_answer=bint, has_error=bint, has_no_choices=bint, has_failed=bint,
    marks=cython.uint, may_be_broken_off=bint
)
cpdef str answer_problem(bytes body)


@cython.locals(size=Py_ssize_t)
cdef int _name_of(const unsigned char *p, Py_ssize_t start, Py_ssize_t end) except -1


cdef bint _is_model(const unsigned char *p, Py_ssize_t i) noexcept


@cython.locals(name=str)
cdef int _escaped_name_of(const unsigned char *p, Py_ssize_t start, Py_ssize_t end) except -1


@cython.locals(size=Py_ssize_t, is_plain=bint)
cdef unsigned int _trait_of_key(
    const unsigned char *p, Py_ssize_t start, Py_ssize_t end, Py_ssize_t value, Py_ssize_t value_end
) noexcept
cdef unsigned int _mark_of(const unsigned char *p, Py_ssize_t start, Py_ssize_t size) noexcept


cdef bint _is_role(const unsigned char *p, Py_ssize_t i) noexcept


@cython.locals(k=Py_ssize_t)
cdef str _string_of(const unsigned char *p, Py_ssize_t start, Py_ssize_t end)
cdef _read_stream_options(BodyFacts facts, bytes text)
cdef bint _is_nothing(const unsigned char *p, Py_ssize_t start, Py_ssize_t end) noexcept


cdef Py_ssize_t _skip_space(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _skip_colon(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


cdef Py_ssize_t _skip_string(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(quote=Py_ssize_t, quotes=cython.ulonglong)
cdef Py_ssize_t _skip_escaped_string(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(before=cython.ulonglong)
cdef bint _all_escaped(
    const unsigned char *p, Py_ssize_t i, Py_ssize_t end, unsigned long long quotes
) noexcept


@cython.locals(k=Py_ssize_t)
cdef bint _is_escaped(const unsigned char *p, Py_ssize_t i) noexcept


@cython.locals(c=int, _=bint)
cdef Py_ssize_t _skip_value(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef bint _ends_word(int c) noexcept


@cython.locals(
    c=int, at=Py_ssize_t, text=Py_ssize_t, size=Py_ssize_t, shape=cython.ulonglong, marks=cython.ulonglong,
    found=cython.uint
)
cdef (Py_ssize_t, cython.uint) _skip_nested(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
