import cython

from ..balancing.upstream cimport Upstream
from ..llm.adapter cimport Adapter
from ..wire.head cimport RequestTemplate, ResponseTemplate
from ..wire.pool cimport Pool


cdef class NodeLink:
    cdef readonly object node
    cdef readonly str name
    cdef readonly Pool pool
    cdef readonly RequestTemplate template
    cdef readonly int position
    cdef readonly object provider
    cdef readonly Adapter adapter
    cdef readonly dict call_adapters
    cdef readonly bytes query
    cdef readonly dict paths
    cdef readonly frozenset auth_names
    cdef readonly bytes prefix_target
    cdef readonly bint limits_per_model
    cdef readonly object redactor
    cdef readonly bytes answer_lines
    cdef public object metrics
    cdef tuple _changes
    cdef bytes _adapted_lines

    cpdef bytes adapted_lines(self, tuple changes)
    cpdef bytes own_over(self, list fields)
    @cython.locals(model=str)
    cpdef str model_for(self, str asked)
    cpdef bytes target(self, bytes target)


cdef class RoutePlan:
    cdef readonly str name
    cdef readonly Upstream upstream
    cdef readonly tuple links
    cdef readonly tuple plugins
    cdef readonly tuple body_plugins
    cdef readonly object deadlines
    cdef readonly double connect_s
    cdef readonly double head_stream_s
    cdef readonly double head_s
    cdef readonly double first_content_stream_s
    cdef readonly double first_content_s
    cdef readonly double progress_s
    cdef readonly double idle_s
    cdef readonly double node_write_s
    cdef readonly double client_write_s
    cdef readonly double total_s
    cdef readonly double tunnel_idle_s
    cdef readonly bint is_llm
    cdef readonly object replayable
    cdef readonly bint replays_uncertain
    cdef readonly bint fails_over_on_status
    cdef readonly object fallback
    cdef readonly bint passthrough
    cdef readonly int max_attempts
    cdef readonly long long hold_answer_bytes
    cdef readonly long long uncommitted_bytes
    cdef readonly bint shows_headers
    cdef readonly bytes strip_prefix
    cdef readonly bint resumes
    cdef readonly bint enables_websocket
    cdef readonly bint moves_too_long
    cdef readonly ResponseTemplate answer_template
    cdef public object metrics
    cdef object __weakref__

    @cython.locals(link=NodeLink)
    cpdef tuple models_for(self, str asked)
    cpdef bytes target_of(self, bytes target)
