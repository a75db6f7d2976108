"""C types of adapter.py."""

cimport cython

from .body cimport BodyFacts, replaced_parts

cdef unsigned int _HAS_MESSAGES


@cython.final
cdef class Rendering:
    cdef readonly list parts
    cdef readonly tuple changes
    cdef readonly object misfit


@cython.final
cdef class Adapter:
    cdef readonly object dialect
    cdef readonly object models
    cdef readonly bint strict
    cdef readonly dict capabilities
    cdef readonly dict options
    cdef readonly str forced_model
    cdef readonly object max_tokens
    cdef readonly dict patch
    cdef readonly bint patch_forced
    cdef readonly frozenset absent
    cdef readonly unsigned int concerns
    cdef readonly unsigned int concerns_moved
    cdef readonly bint writes
    cdef readonly frozenset written
    cdef readonly bint stops_thinking

    cpdef str model_for(self, str asked)
    @cython.locals(asked=str, model=str, is_moved=bint, traits=cython.uint, concerns=cython.uint)
    cpdef Rendering render(self, bytes body, BodyFacts facts, bytes path)
    @cython.locals(parts=list)
    cdef Rendering _moved(self, bytes body, BodyFacts facts, str model)
    cdef Rendering _rewritten(self, bytes body, BodyFacts facts, str model, bint is_moved)


@cython.locals(rendering=Rendering)
cdef Rendering _rendered(list parts, tuple changes)


@cython.locals(rendering=Rendering)
cdef Rendering _refused(str misfit)
