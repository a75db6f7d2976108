from libc.stdint cimport uint8_t


cdef inline long long digits(const uint8_t *text, Py_ssize_t length) noexcept:
    """The number that 1 to 18 plain digits spell, else -1."""
    cdef long long value = 0
    cdef Py_ssize_t i
    if length < 1 or length > 18:
        return -1
    for i in range(length):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    return value


cdef inline int hex_digit(uint8_t c) noexcept:
    """The value of a hexadecimal digit, or -1."""
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef int check_host(const uint8_t *value, Py_ssize_t length) except -1
cdef int check_path(const uint8_t *path, Py_ssize_t length) except -1
