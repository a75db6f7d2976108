from ..balancing.retry cimport RetryBudget


cdef class Exchanges:
    cdef public object on_finished
    cdef public long long hold_body_bytes
    cdef public long long hold_total_bytes
    cdef public long long max_body_bytes
    cdef public RetryBudget budget
    cdef public set live
    cdef public long long held_bytes
    cdef public long long started
    cdef public long long retries
    cdef public long long budget_refusals
    cdef public long long uncertain_replays
    cdef public long long stale_reuses
    cdef public long long interrupted
    cdef public long long malformed_events
    cdef public long long client_gone
    cdef public long long unmovable
    cdef public long long resumed
    cdef public long long tunnels
    cdef public dict dead_nodes
