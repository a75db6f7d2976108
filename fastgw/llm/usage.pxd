"""C types of usage.py. The buffer a function gets as ``p`` is borrowed: valid inside the call only."""

cimport cython

cimport fastgw.llm.body as body
cimport fastgw.llm.byte_search as byte_search

cdef Py_ssize_t _MAX_DIGITS, _MAX_BYTES
cdef int _NONE, _PROMPT, _COMPLETION, _CACHED


@cython.final
@cython.freelist(8)
cdef class Usage:
    cdef readonly long long prompt
    cdef readonly long long completion
    cdef readonly long long cached


@cython.locals(at=Py_ssize_t, usage=Usage)
cpdef Usage usage_of(bytes document)


@cython.locals(found=Py_ssize_t, i=Py_ssize_t, at=Py_ssize_t, value=Py_ssize_t, marks=cython.ulonglong)
cdef Py_ssize_t _find(const unsigned char *p, Py_ssize_t end) noexcept


@cython.locals(depth=int, text=Py_ssize_t, at=Py_ssize_t, kind=int, c=int, marks=cython.ulonglong)
cdef void _read(Usage usage, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef int _kind(const unsigned char *p, Py_ssize_t key, Py_ssize_t size, int depth) noexcept


@cython.locals(start=Py_ssize_t, number=cython.longlong)
cdef void _take(Usage usage, int kind, const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
cdef Py_ssize_t _value(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) noexcept
