"""C types of body.py. The buffer a function gets as ``p`` is borrowed: valid inside the call only."""

cimport cython

cdef Py_ssize_t _MAX_DEPTH
cdef int _NONE, _MODEL, _STREAM, _STREAM_OPTIONS, _ERROR, _CHOICES, _OUTPUT, _OBJECT


cdef class BodyFacts:
    cdef readonly str model
    cdef readonly Py_ssize_t model_start
    cdef readonly Py_ssize_t model_end
    cdef readonly bint duplicate_model
    cdef readonly bint stream
    cdef readonly bint include_usage


@cython.locals(
    p=cython.p_uchar, end=Py_ssize_t, i=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t,
    name=int, has_model=bint, facts=BodyFacts, model=str
)
cpdef BodyFacts scan(bytes body)


@cython.locals(start=Py_ssize_t, end=Py_ssize_t)
cpdef bytes replace_model(bytes body, BodyFacts facts, str model)


@cython.locals(
    p=cython.p_uchar, end=Py_ssize_t, i=Py_ssize_t, key=Py_ssize_t, value=Py_ssize_t,
    name=int, has_answer=bint, has_error=bint, has_no_choices=bint
)
cpdef str answer_problem(bytes body)


@cython.locals(p=cython.p_uchar, size=Py_ssize_t, k=Py_ssize_t, name=str)
cdef int _name_of(bytes body, Py_ssize_t start, Py_ssize_t end) except -1
cdef str _string_of(bytes text)
cdef bint _asks_usage(bytes text) except -1
cdef bint _is_nothing(const unsigned char *p, Py_ssize_t start, Py_ssize_t end) noexcept


@cython.locals(k=Py_ssize_t)
cdef bint _is_word(
    const unsigned char *p, Py_ssize_t i, const unsigned char *word, Py_ssize_t size
) noexcept

cdef Py_ssize_t _skip_space(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _skip_colon(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(k=Py_ssize_t, found=cython.uchar)
cdef Py_ssize_t _find_quote(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(k=Py_ssize_t, found=cython.uchar)
cdef Py_ssize_t _find_structure(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(start=Py_ssize_t, k=Py_ssize_t)
cdef Py_ssize_t _skip_string(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int)
cdef Py_ssize_t _skip_value(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept


@cython.locals(c=int, depth=Py_ssize_t, shape=cython.ulonglong)
cdef Py_ssize_t _skip_nested(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
