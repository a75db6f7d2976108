"""One node's record, in memory that worker processes may share, and every change of it.

No pointers and only fixed widths; all zero is a healthy node. Times are monotonic seconds, 0 = not
set. Who may change what, while others read it:

- A *part* is one worker's: what it has under way and has counted. Nobody else writes it, so counting
  costs no more than in a process of its own, and when the worker has died nothing is left to guess.
- A change of one word that must not be lost (a trial taken, a term made longer, a counter) is one
  atomic operation.
- A change of several words is made under the record's lock, by the functions that say so. Each word
  is whole at any time. ``state`` is written after the terms: who sees a node ejected also sees until
  when. ``generation`` is written after that: who has picked a node and sees the old one learns later
  that it is out of date, and who sees the new one also sees that the node is out.

The lock is for order, not for safety. It is held for some hundred nanoseconds; who has not got it
after a millisecond, because its holder is suspended or dead, goes on without. The worst that comes
of that is what two verdicts at the same moment mean anyway: the later one holds, or a term grows by
one step too many. A request must not wait longer for the sake of a counter.

A record that only one worker uses takes no lock.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from fastgw._shm cimport (
    acquire,
    add_i32,
    add_i64,
    count_i32,
    count_i64,
    load_acquire_i32,
    load_f64,
    load_i32,
    load_i64,
    sign_f64,
    signer_f64,
    store_f64,
    store_i32,
    store_i64,
    store_release_i32,
    surrender,
    swap_f64,
)


cdef enum:  # HealthState
    HEALTHY = 0
    MOSTLY_HEALTHY = 1
    MOSTLY_UNHEALTHY = 2
    UNHEALTHY = 3

cdef enum:  # Report; the failures are the numbers of errors.FailureKind
    SUCCESS = 0
    HTTP_FAILURE = 1
    TCP_FAILURE = 2
    TIMEOUT = 3

cdef enum:  # Cause
    CAUSE_NONE = 0
    CAUSE_PASSIVE = 1
    CAUSE_ACTIVE = 2

cdef enum:  # PickKind
    NORMAL = 0
    TRIAL = 1
    PANIC = 2

cdef enum:  # a node's standing at a time
    OPEN = 0
    HALF_OPEN = 1  # the next request is its trial
    ON_TRIAL = 2  # half-open, and the trial is under way
    EJECTED = 3
    COOLING = 4
    DEAD = 5

cdef enum:
    WINDOW_S = 10
    OUTCOME_KINDS = 8
    ABANDONED = 7  # of the outcomes: dropped without an end
    PATIENCE_NS = 1_000_000  # with a record's lock
    GROWTH_MEMORY_S = 60  # of health, after which an ejection is the first one again
    UNKNOWN_RECOVERY_S = 1  # when nobody can say when a node is back: ask again after this


ctypedef struct second_t:
    int32_t second  # which second of the clock this is about
    int32_t era  # of the window
    uint32_t total
    uint32_t failed


# What one worker has done. 256 bytes: no two workers write to one cache line.
ctypedef struct part_t:
    int32_t in_flight
    int32_t panic_in_flight  # those of in_flight that were picked in panic
    int64_t picks
    int64_t outcomes[OUTCOME_KINDS]
    second_t window[WINDOW_S]
    int64_t unused[2]


ctypedef struct node_t:
    # One cache line, read by every pick.
    int32_t state
    int32_t max_in_flight  # 0 = no limit
    double cooling_until
    double dead_until
    double ejected_until
    double trial_expires  # signed by the worker whose trial it is
    double panic_after
    double ramp_from  # when it came back after an outage: its share still grows
    int32_t cause
    int32_t probe_failing
    # Where the workers' parts are, in bytes from here.
    int64_t first_part
    int64_t part_step
    int32_t workers
    int32_t lock
    # What tells late news from fresh.
    int64_t generation  # times it went from usable to unusable
    int64_t verdict  # times anything about its standing changed
    # Counting.
    int64_t counters[4]  # by Report
    # How far the growing terms have grown.
    int32_t ejections
    int32_t coolings
    int32_t deaths
    int32_t forbidden
    double healed_at
    double traffic_failed_at
    int32_t era  # of the window: results of an earlier one are forgotten
    int32_t panic_pauses  # since a request that was picked in panic succeeded
    double out_since  # of the outage under way
    double probe_expires  # until then the last probe's word holds


# --- Parts -------------------------------------------------------------------------------------


cdef inline part_t *part_of(const node_t *c, int worker) noexcept nogil:
    return <part_t *>(<char *>c + c.first_part + worker * c.part_step)


cdef inline int in_flight_of(const node_t *c) noexcept nogil:
    cdef int worker
    cdef int count = 0
    for worker in range(c.workers):
        count += load_i32(&part_of(c, worker).in_flight)
    return count


cdef inline int panic_in_flight_of(const node_t *c) noexcept nogil:
    cdef int worker
    cdef int count = 0
    for worker in range(c.workers):
        count += load_i32(&part_of(c, worker).panic_in_flight)
    return count


cdef inline int64_t picks_of(const node_t *c) noexcept nogil:
    cdef int worker
    cdef int64_t count = 0
    for worker in range(c.workers):
        count += load_i64(&part_of(c, worker).picks)
    return count


cdef inline int64_t outcomes_of(const node_t *c, int kind) noexcept nogil:
    cdef int worker
    cdef int64_t count = 0
    for worker in range(c.workers):
        count += load_i64(&part_of(c, worker).outcomes[kind])
    return count


# --- The lock ----------------------------------------------------------------------------------


cdef inline bint enter_record(node_t *c, int worker) noexcept nogil:
    """Lock the record. False, with nothing to undo: held by us already, not shared, or not had in time."""
    if c.workers == 1 or load_i32(&c.lock) == worker + 1:
        return False
    return acquire(&c.lock, worker + 1, PATIENCE_NS)


cdef inline void leave_record(node_t *c, int worker, bint entered) noexcept nogil:
    """Undo ``enter_record``, which returned ``entered``."""
    if entered:
        surrender(&c.lock, worker + 1)


# --- Standing ----------------------------------------------------------------------------------


cdef inline bint is_usable_state(const node_t *c) noexcept nogil:
    return load_acquire_i32(&c.state) <= MOSTLY_HEALTHY


cdef inline int standing_of(const node_t *c, double now, bint trials) noexcept nogil:
    """What a node is good for at ``now``. Without trials a term that is over is simply over."""
    cdef bint is_usable = is_usable_state(c)
    cdef double cooling_until = load_f64(&c.cooling_until)
    cdef double dead_until = load_f64(&c.dead_until)
    if is_usable and cooling_until == 0.0 and dead_until == 0.0:
        return OPEN
    if now < dead_until:
        return DEAD
    if now < cooling_until:
        return COOLING
    if not is_usable:
        if not trials or now < load_f64(&c.ejected_until):
            return EJECTED
        # Probes decide while they speak: alone if it was they who found the node out, else by
        # holding traffic's trials back. Once they fall silent traffic decides again.
        if load_i32(&c.probe_failing) or load_i32(&c.cause) == CAUSE_ACTIVE:
            if now < load_f64(&c.probe_expires):
                return EJECTED
    elif not trials:
        return OPEN
    return ON_TRIAL if now < load_f64(&c.trial_expires) else HALF_OPEN


cdef inline bint is_full(const node_t *c) noexcept nogil:
    cdef int limit = load_i32(&c.max_in_flight)
    return limit > 0 and in_flight_of(c) >= limit


cdef inline bint is_in_order(const node_t *c) noexcept nogil:
    """Standing OPEN, with its whole share, and not full: what nearly every look at a node finds."""
    return (
        is_usable_state(c)
        # A time that is not set has no bit set either.
        and (
            load_i64(<const int64_t *>&c.cooling_until)
            | load_i64(<const int64_t *>&c.dead_until)
            | load_i64(<const int64_t *>&c.ramp_from)
        )
        == 0
        and not is_full(c)
    )


cdef inline double recovery_of(const node_t *c, double now, bint trials) noexcept nogil:
    """When this node may be picked again, as far as anybody can say now."""
    cdef int standing = standing_of(c, now, trials)
    cdef double at = now
    cdef double until
    if standing == OPEN or standing == HALF_OPEN:
        return now + UNKNOWN_RECOVERY_S if is_full(c) else now
    until = load_f64(&c.dead_until)
    if until > at:
        at = until
    until = load_f64(&c.cooling_until)
    if until > at:
        at = until
    if not is_usable_state(c):
        until = load_f64(&c.ejected_until)
        if until > at:
            at = until
    return at if at > now else now + UNKNOWN_RECOVERY_S


# --- Reports and verdicts: under the lock ------------------------------------------------------


cdef inline int count_report(node_t *c, int kind, int64_t limit) noexcept nogil:
    """Count one report; returns the state that follows from it, which is not set yet."""
    cdef int before = load_i32(&c.state)
    cdef int64_t count
    if limit <= 0:
        return before
    if kind == SUCCESS:
        if before == HEALTHY:
            return HEALTHY
        count = add_i64(&c.counters[SUCCESS], 1)
        store_i64(&c.counters[HTTP_FAILURE], 0)
        store_i64(&c.counters[TCP_FAILURE], 0)
        store_i64(&c.counters[TIMEOUT], 0)
        if count >= limit:
            return HEALTHY
        return MOSTLY_UNHEALTHY if before == UNHEALTHY else before
    if before == UNHEALTHY:
        return UNHEALTHY
    count = add_i64(&c.counters[kind], 1)
    store_i64(&c.counters[SUCCESS], 0)
    if count >= limit:
        return UNHEALTHY
    return MOSTLY_HEALTHY if before == HEALTHY else before


cdef inline bint set_state(node_t *c, int state) noexcept nogil:
    """Move to a state; returns whether that changed between usable and unusable."""
    cdef bint was_usable = load_i32(&c.state) <= MOSTLY_HEALTHY
    cdef bint is_usable = state <= MOSTLY_HEALTHY
    if is_usable and not was_usable:
        store_f64(&c.ejected_until, 0.0)
        store_i32(&c.cause, CAUSE_NONE)
    store_release_i32(&c.state, state)
    if was_usable and not is_usable:
        add_i64(&c.generation, 1)
    if was_usable != is_usable:
        add_i64(&c.verdict, 1)
    return was_usable != is_usable


cdef inline void eject_node(node_t *c, double until, int cause) noexcept nogil:
    cdef bint was_usable = load_i32(&c.state) <= MOSTLY_HEALTHY
    if was_usable or load_i32(&c.cause) == CAUSE_NONE:
        store_i32(&c.cause, cause)
    store_i64(&c.counters[SUCCESS], 0)
    store_f64(&c.healed_at, 0.0)
    if until > load_f64(&c.ejected_until):
        store_f64(&c.ejected_until, until)
    store_release_i32(&c.state, UNHEALTHY)
    if was_usable:
        add_i64(&c.generation, 1)
    add_i64(&c.verdict, 1)


cdef inline double grown(double base_s, double max_s, int times) noexcept nogil:
    cdef double term = base_s
    while times > 0 and term < max_s:
        term *= 2.0
        times -= 1
    return term if term < max_s else max_s


cdef inline double eject_for_longer(
    node_t *c, double now, double base_s, double max_s, double spread
) noexcept nogil:
    """Eject because of live traffic, for the next longer term. Returns its end."""
    cdef double healed_at = load_f64(&c.healed_at)
    cdef double until
    if healed_at != 0.0 and now - healed_at >= GROWTH_MEMORY_S:
        store_i32(&c.ejections, 0)
    until = now + grown(base_s, max_s, add_i32(&c.ejections, 1) - 1) * spread
    eject_node(c, until, CAUSE_PASSIVE)
    return until


cdef inline void end_outage(node_t *c, double now, double ramp_after_s) noexcept nogil:
    """If nothing keeps the node out any more: after a long outage its share grows from now on."""
    cdef double since = load_f64(&c.out_since)
    if since == 0.0 or not is_usable_state(c):
        return
    if load_f64(&c.cooling_until) != 0.0 or load_f64(&c.dead_until) != 0.0:
        return
    store_f64(&c.out_since, 0.0)
    # One that went out again before it had its whole share begins anew.
    if ramp_after_s > 0.0 and (now - since >= ramp_after_s or load_f64(&c.ramp_from) != 0.0):
        store_f64(&c.ramp_from, now)


cdef inline void clear_panic(node_t *c) noexcept nogil:
    store_f64(&c.panic_after, 0.0)
    store_i32(&c.panic_pauses, 0)


cdef inline void heal_node(node_t *c, double now, double ramp_after_s) noexcept nogil:
    cdef int kind
    if load_i32(&c.state) > MOSTLY_HEALTHY:
        for kind in range(4):
            store_i64(&c.counters[kind], 0)
        add_i64(&c.verdict, 1)
    store_i32(&c.cause, CAUSE_NONE)
    store_f64(&c.ejected_until, 0.0)
    clear_panic(c)
    store_f64(&c.traffic_failed_at, 0.0)
    store_f64(&c.healed_at, now)
    # The failures that ejected it are paid for: they must not eject it a second time.
    add_i32(&c.era, 1)
    if load_i32(&c.state) > MOSTLY_HEALTHY:
        store_release_i32(&c.state, HEALTHY)
    end_outage(c, now, ramp_after_s)


cdef inline void absolve_node(node_t *c, double now, double ramp_after_s) noexcept nogil:
    """A request succeeded: terms that are over need no trial any more."""
    cdef double cooling_until = load_f64(&c.cooling_until)
    cdef double dead_until = load_f64(&c.dead_until)
    store_f64(&c.traffic_failed_at, 0.0)
    # A longer term that somebody else sets now is not undone.
    if cooling_until != 0.0 and now >= cooling_until and swap_f64(&c.cooling_until, cooling_until, 0.0):
        cooling_until = 0.0
        add_i64(&c.verdict, 1)
    if dead_until != 0.0 and now >= dead_until and swap_f64(&c.dead_until, dead_until, 0.0):
        dead_until = 0.0
        add_i64(&c.verdict, 1)
    if cooling_until == 0.0:
        store_i32(&c.coolings, 0)
    if dead_until == 0.0:
        store_i32(&c.deaths, 0)
        store_i32(&c.forbidden, 0)
    end_outage(c, now, ramp_after_s)


cdef inline bint revive_node(node_t *c, double until, double now) noexcept nogil:
    """End a dead term: the one that ends at ``until`` as if it had not been, any other by a trial."""
    cdef double known = load_f64(&c.dead_until)
    while known != 0.0 and (known == until or known > now):
        if swap_f64(&c.dead_until, known, 0.0 if known == until else now):
            if known == until:
                store_i32(&c.deaths, 0)
                store_i32(&c.forbidden, 0)
            add_i64(&c.verdict, 1)
            return True
        known = load_f64(&c.dead_until)
    return False


# --- One word each: without the lock -----------------------------------------------------------


cdef inline void begin_outage(node_t *c, double now) noexcept nogil:
    swap_f64(&c.out_since, 0.0, now)  # else it has begun already


cdef inline void extend_term(node_t *c, double *term, double until) noexcept nogil:
    """Let a term end later; an earlier end changes nothing."""
    cdef double known = load_f64(term)
    while until > known:
        if swap_f64(term, known, until):
            add_i64(&c.verdict, 1)
            return
        known = load_f64(term)


cdef inline bint claim_trial(node_t *c, double now, double lease, bint trials) noexcept nogil:
    """Take the trial of a half-open node: of all that want it exactly one gets it."""
    cdef double known = load_f64(&c.trial_expires)
    if now < known or not swap_f64(&c.trial_expires, known, lease):
        return False
    # Between our look and our claim another's trial may have come and gone, and found the node out.
    if standing_of(c, now, trials) <= ON_TRIAL:
        return True
    swap_f64(&c.trial_expires, lease, 0.0)
    return False


cdef inline void return_trial(node_t *c, double lease) noexcept nogil:
    swap_f64(&c.trial_expires, lease, 0.0)  # else it is a later trial's


# --- The worker's own part ---------------------------------------------------------------------


cdef inline void count_in_window(const node_t *c, part_t *part, bint failed, double now) noexcept nogil:
    cdef int32_t second = <int32_t>now
    cdef int32_t era = load_i32(&c.era)
    cdef second_t *slot = &part.window[<uint32_t>second % WINDOW_S]
    if slot.second != second or slot.era != era:
        store_i32(<int32_t *>&slot.total, 0)
        store_i32(<int32_t *>&slot.failed, 0)
        store_i32(&slot.second, second)
        store_release_i32(&slot.era, era)
    count_i32(<int32_t *>&slot.total, 1)
    if failed:
        count_i32(<int32_t *>&slot.failed, 1)


cdef inline void sum_window(const node_t *c, double now, int64_t *total, int64_t *failed) noexcept nogil:
    cdef int32_t newest = <int32_t>now
    cdef int32_t era = load_i32(&c.era)
    cdef int32_t second
    cdef const second_t *slot
    cdef int worker, i
    total[0] = 0
    failed[0] = 0
    for worker in range(c.workers):
        for i in range(WINDOW_S):
            slot = &part_of(c, worker).window[i]
            second = load_i32(&slot.second)
            if load_acquire_i32(&slot.era) == era and newest - WINDOW_S < second <= newest:
                total[0] += <uint32_t>load_i32(<const int32_t *>&slot.total)
                failed[0] += <uint32_t>load_i32(<const int32_t *>&slot.failed)


cdef inline void count_pick(part_t *part, int kind) noexcept nogil:
    count_i64(&part.picks, 1)
    count_i32(&part.in_flight, 1)
    if kind == PANIC:
        count_i32(&part.panic_in_flight, 1)


cdef inline void count_end(part_t *part, int kind, int outcome) noexcept nogil:
    count_i64(&part.outcomes[outcome & (OUTCOME_KINDS - 1)], 1)
    if part.in_flight > 0:
        count_i32(&part.in_flight, -1)
    if kind == PANIC and part.panic_in_flight > 0:
        count_i32(&part.panic_in_flight, -1)


cdef inline int64_t bury_part(node_t *c, int worker) noexcept nogil:
    """End what a dead worker has under way on this node. Returns how many requests that were."""
    cdef part_t *part = part_of(c, worker)
    cdef double lease = load_f64(&c.trial_expires)
    cdef int64_t left = load_i64(&part.picks)
    cdef int kind
    # What it counted last may be only half written; these two say exactly what it had begun and ended.
    for kind in range(OUTCOME_KINDS):
        left -= load_i64(&part.outcomes[kind])
    count_i64(&part.outcomes[ABANDONED], left)
    store_i32(&part.in_flight, 0)
    store_i32(&part.panic_in_flight, 0)
    if lease != 0.0 and (c.workers == 1 or signer_f64(lease) == worker):
        return_trial(c, lease)
    surrender(&c.lock, worker + 1)
    return left
