"""C types of models.py."""

import cython


cdef class ModelTable:
    cdef readonly int count
    cdef double _busy_s, _busy_max_s, _cooling_max_s
    cdef double _misfit_s, _misfit_max_s, _trial_lease_s
    cdef dict _rests
    cdef double _prune_at

    @cython.locals(end=double, is_known=cython.bint)
    cpdef bint limited(
        self, int position, str model, double started_at, double until, double now, double spread
    ) except -1
    @cython.locals(end=double)
    cpdef misfit(
        self, int position, str model, bytes scope, str reason, double started_at, double now
    )
    cpdef passed(self, int position, str model, tuple scopes, double started_at, double now)
    cpdef rest_of(self, int position, str model, tuple scopes, double now)
    cpdef claim(self, int position, str model, tuple scopes, double now)
    cpdef list resting(self, int position, double now)
