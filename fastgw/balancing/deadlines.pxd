"""C types of deadlines.py."""


cpdef double patience(bytes told)
cpdef double attempt_deadline(double now, double total, bint is_last) noexcept
