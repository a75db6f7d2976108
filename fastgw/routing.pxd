import cython


cdef class Route:
    cdef readonly str id
    cdef readonly str name
    cdef readonly tuple uris
    cdef readonly tuple hosts
    cdef readonly frozenset methods
    cdef readonly int priority
    cdef readonly object plan


cdef class Paths:
    cdef dict exact
    cdef list prefixes

    @cython.locals(route=Route, prefix=bytes, routes=list)
    cdef Route match(self, bytes method, bytes path)


cdef class RouteTable:
    cdef readonly tuple routes
    cdef Paths _any_host
    cdef dict _hosts
    cdef list _wildcards
    cdef bint _is_by_host
    cdef object __weakref__

    @cython.locals(paths=Paths, route=Route, suffix=bytes)
    cpdef Route match(self, bytes method, bytes host, bytes path)
