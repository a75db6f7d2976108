cpdef double monotonic() noexcept
