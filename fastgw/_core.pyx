"""The kernel: which node next, and what its health is.

Nodes, priority tiers, smooth weighted round robin, the four counters and the four states of
APISIX's health checks, and the terms for which a node is out (ejected, cooling, dead). No I/O,
no clock, no allocation on a pick. A node's state is one flat C record, so that it can lie in
memory shared by processes; a selector's schedule is its own.

What a node's record says at a time is its *standing*. A node is out while a term runs (dead,
cooling) or while its state is unhealthy or mostly_unhealthy. When the term is over it is
*half-open*: one request at a time may try it, holding a lease that expires, so that a trial of
which nothing is heard again cannot keep a recovered node out.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memset

from enum import IntEnum


class HealthState(IntEnum):
    """APISIX's four states; the first two are usable."""

    HEALTHY = 0
    MOSTLY_HEALTHY = 1
    MOSTLY_UNHEALTHY = 2
    UNHEALTHY = 3


class Report(IntEnum):
    """What one live outcome or probe said; also the index of its counter."""

    SUCCESS = 0
    HTTP_FAILURE = 1
    TCP_FAILURE = 2
    TIMEOUT = 3


class Cause(IntEnum):
    """Who made a node unhealthy: live traffic (passive) or probes (active)."""

    NONE = 0
    PASSIVE = 1
    ACTIVE = 2


class PickKind(IntEnum):
    """Why a node was picked: available, let in for one trial, or because all nodes are out."""

    NORMAL = 0
    TRIAL = 1
    PANIC = 2


TRANSITIONS = {
    HealthState.HEALTHY: frozenset({HealthState.MOSTLY_HEALTHY, HealthState.UNHEALTHY}),
    HealthState.MOSTLY_HEALTHY: frozenset({HealthState.HEALTHY, HealthState.UNHEALTHY}),
    HealthState.MOSTLY_UNHEALTHY: frozenset({HealthState.HEALTHY, HealthState.UNHEALTHY}),
    HealthState.UNHEALTHY: frozenset({HealthState.HEALTHY, HealthState.MOSTLY_UNHEALTHY}),
}

cdef tuple _STATES = tuple(HealthState)
cdef tuple _STATUSES = tuple([state.name.lower() for state in HealthState])
cdef tuple _CAUSES = tuple(Cause)

cdef enum:  # a node's standing at a time
    OPEN = 0
    HALF_OPEN = 1  # the next request is its trial
    ON_TRIAL = 2  # half-open, and the trial is under way
    EJECTED = 3
    COOLING = 4
    DEAD = 5

cdef enum:  # in Node.outcomes
    ABANDONED = 7  # a Pick that was dropped without an end

cdef double GROWTH_MEMORY_S = 60.0  # of health, after which an ejection is the first one again
cdef double UNKNOWN_RECOVERY_S = 1.0  # when nobody can say when a node is back: ask again after this


# --- The record: every change of a node's state is in one of these ----------------------------


cdef inline bint is_usable_state(const node_t *c) noexcept nogil:
    return c.state <= MOSTLY_HEALTHY


cdef inline int standing_of(const node_t *c, double now, bint trials) noexcept nogil:
    """What a node is good for at ``now``. Without trials a term that is over is simply over."""
    if is_usable_state(c) and c.cooling_until == 0.0 and c.dead_until == 0.0:
        return OPEN
    if now < c.dead_until:
        return DEAD
    if now < c.cooling_until:
        return COOLING
    if not is_usable_state(c):
        if not trials or now < c.ejected_until:
            return EJECTED
        # Probes decide while they speak: alone if it was they who found the node out, else by
        # holding traffic's trials back. Once they fall silent traffic decides again.
        if (c.probe_failing or c.cause == CAUSE_ACTIVE) and now < c.probe_expires:
            return EJECTED
    elif not trials:
        return OPEN
    return ON_TRIAL if now < c.trial_expires else HALF_OPEN


cdef inline bint is_full(const node_t *c) noexcept nogil:
    return 0 < c.max_in_flight <= c.in_flight


cdef int report_to(node_t *c, int kind, int64_t limit) noexcept nogil:
    cdef int before = c.state
    if limit <= 0:
        return 0
    if kind == SUCCESS:
        if before == HEALTHY:
            return 0
        c.counters[SUCCESS] += 1
        c.counters[HTTP_FAILURE] = 0
        c.counters[TCP_FAILURE] = 0
        c.counters[TIMEOUT] = 0
        if c.counters[SUCCESS] >= limit:
            c.state = HEALTHY
        elif before == UNHEALTHY:
            c.state = MOSTLY_UNHEALTHY
    else:
        if before == UNHEALTHY:
            return 0
        c.counters[kind] += 1
        c.counters[SUCCESS] = 0
        if c.counters[kind] >= limit:
            c.state = UNHEALTHY
        elif before == HEALTHY:
            c.state = MOSTLY_HEALTHY
    if (before <= MOSTLY_HEALTHY) == is_usable_state(c):
        return 0
    c.verdict += 1
    if is_usable_state(c):
        c.ejected_until = 0.0
        c.cause = CAUSE_NONE
    else:
        c.generation += 1
    return 1


cdef void eject_node(node_t *c, double until, int cause) noexcept nogil:
    if is_usable_state(c):
        c.generation += 1
        c.cause = cause
    elif c.cause == CAUSE_NONE:
        c.cause = cause
    c.state = UNHEALTHY
    c.counters[SUCCESS] = 0
    c.healed_at = 0.0
    if until > c.ejected_until:
        c.ejected_until = until
    c.verdict += 1


cdef void heal_node(node_t *c, double now) noexcept nogil:
    if not is_usable_state(c):
        c.state = HEALTHY
        memset(c.counters, 0, sizeof(c.counters))
        c.verdict += 1
    c.cause = CAUSE_NONE
    c.ejected_until = 0.0
    c.panic_after = 0.0
    c.traffic_failed_at = 0.0
    c.healed_at = now
    # The failures that ejected it are paid for: they must not eject it a second time.
    memset(c.window, 0, sizeof(c.window))


cdef inline double grown(double base_s, double max_s, int times) noexcept nogil:
    cdef double term = base_s
    while times > 0 and term < max_s:
        term *= 2.0
        times -= 1
    return term if term < max_s else max_s


cdef void count_in_window(node_t *c, bint failed, double now) noexcept nogil:
    cdef int64_t second = <int64_t>now
    cdef second_t *slot = &c.window[<uint64_t>second % WINDOW_S]
    if slot.second != second:
        slot.second = second
        slot.total = 0
        slot.failed = 0
    slot.total += 1
    slot.failed += failed


cdef void sum_window(const node_t *c, double now, int64_t *total, int64_t *failed) noexcept nogil:
    cdef int64_t second = <int64_t>now
    cdef int i
    total[0] = 0
    failed[0] = 0
    for i in range(WINDOW_S):
        if second - WINDOW_S < c.window[i].second <= second:
            total[0] += c.window[i].total
            failed[0] += c.window[i].failed


cdef inline void release_node(node_t *c, int kind, double lease, int outcome) noexcept nogil:
    if c.in_flight > 0:
        c.in_flight -= 1
    c.outcomes[outcome & (OUTCOME_KINDS - 1)] += 1
    if kind == TRIAL:
        if c.trial_expires == lease:  # else it is a later trial's
            c.trial_expires = 0.0
    elif kind == PANIC and c.panic_in_flight > 0:
        c.panic_in_flight -= 1


cdef double recovery_of(const node_t *c, double now, bint trials) noexcept nogil:
    """When this node may be picked again, as far as anybody can say now."""
    cdef int standing = standing_of(c, now, trials)
    cdef double at = now
    if standing == OPEN or standing == HALF_OPEN:
        return now + UNKNOWN_RECOVERY_S if is_full(c) else now
    if c.dead_until > at:
        at = c.dead_until
    if c.cooling_until > at:
        at = c.cooling_until
    if not is_usable_state(c) and c.ejected_until > at:
        at = c.ejected_until
    return at if at > now else now + UNKNOWN_RECOVERY_S


# --- Tables and nodes --------------------------------------------------------------------------


@cython.final
cdef class NodeTable:
    """A block of node records, its own or a caller's (shared) memory.

    Slots are handed out in order, so processes that make the same nodes in the same order over one
    memory see the same records. A slot that was given back is wiped before it is handed out again.

    Args:
        capacity: how many nodes it can hold, at least 1.
        memory: a writable, contiguous buffer of at least ``bytes_needed(capacity)`` bytes; zeroed
            means empty. It stays exported for as long as the table lives.
    Raises:
        ValueError: the capacity is not positive, or the memory too small or not aligned to 8 bytes.
    """

    def __cinit__(self, int capacity=MAX_NODES, memory=None):
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.vacant = <int32_t *>PyMem_Calloc(capacity, sizeof(int32_t))
        if self.vacant == NULL:
            raise MemoryError
        if memory is None:
            self.block = <node_t *>PyMem_Calloc(capacity, sizeof(node_t))
            if self.block == NULL:
                raise MemoryError
            return
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.is_borrowed = True
        if <size_t>self.view.len < <size_t>capacity * sizeof(node_t):
            raise ValueError(f"{capacity} nodes need {self.bytes_needed(capacity)} bytes of memory")
        if <size_t>self.view.buf % 8:
            raise ValueError("memory must be aligned to 8 bytes")
        self.block = <node_t *>self.view.buf

    def __dealloc__(self):
        PyMem_Free(self.vacant)
        if self.is_borrowed:
            PyBuffer_Release(&self.view)
        else:
            PyMem_Free(self.block)

    @staticmethod
    def bytes_needed(long long capacity):
        """Size of the memory for this many nodes."""
        return capacity * <long long>sizeof(node_t)

    def __len__(self):
        return self.used - self.vacancies

    cdef int take(self) except -1:
        cdef int slot
        if self.vacancies:
            self.vacancies -= 1
            slot = self.vacant[self.vacancies]
            memset(&self.block[slot], 0, sizeof(node_t))
            return slot
        if self.used == self.capacity:
            raise ValueError(f"the table is full: {self.capacity} nodes")
        self.used += 1
        return self.used - 1

    cdef void give_back(self, int slot) noexcept:
        self.vacant[self.vacancies] = slot
        self.vacancies += 1


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the table
cdef class Node:
    """One server of an upstream and its state. The same node may be in several selectors.

    Args:
        host, port: where it is; the port is 1 to 65535.
        weight: its share of the traffic of its tier; 0 means only if nobody else is left there.
        priority: its tier; the highest available tier is used.
        name: for logs and metrics, ``host:port`` by default.
        max_in_flight: requests at a time, 0 = no limit.
        table: where its record lies; None gives it one of its own.
        record_of: a node whose record is shared: the same health under another weight or tier.
    Raises:
        ValueError: an argument is outside its range, or the table is full.
    """

    def __cinit__(
        self,
        str host not None,
        port,
        weight=1,
        priority=0,
        *,
        str name=None,
        max_in_flight=0,
        NodeTable table=None,
        Node record_of=None,
    ):
        if not host:
            raise ValueError("a node needs a host")
        self.host = host
        self.port = _within("port", port, 1, 65535)
        self.weight = _within("weight", weight, 0, 2**31 - 1)
        self.priority = _within("priority", priority, -(2**31), 2**31 - 1)
        self.name = name or f"{host}:{port}"
        limit = _within("max_in_flight", max_in_flight, 0, 2**31 - 1)
        if record_of is not None:
            self.elder = record_of if record_of.elder is None else record_of.elder
            self.c = self.elder.c
        elif table is None:
            self.c = <node_t *>PyMem_Calloc(1, sizeof(node_t))
            if self.c == NULL:
                raise MemoryError
        else:
            self.slot = table.take()
            self.table = table
            self.c = &table.block[self.slot]
        self.c.max_in_flight = limit

    def __dealloc__(self):
        if self.elder is not None:
            pass  # the record is the elder's
        elif self.table is not None:
            self.table.give_back(self.slot)
        else:
            PyMem_Free(self.c)

    def __repr__(self):
        cdef node_t *c = self.c
        address = f"{self.host}:{self.port}"
        if c.dead_until:
            standing = f"dead until {c.dead_until:.1f}s"
        elif c.cooling_until:
            standing = f"cooling until {c.cooling_until:.1f}s"
        elif is_usable_state(c):
            standing = _STATUSES[c.state]
        elif c.cause == CAUSE_ACTIVE:
            standing = "ejected by probes"
        else:
            standing = f"ejected until {c.ejected_until:.1f}s"
        return (
            f"<Node {'' if self.name == address else self.name + ' '}{address}"
            f" tier={self.priority} weight={self.weight} {standing} in_flight={c.in_flight}>"
        )

    # --- What it looks like ---

    @property
    def state(self):
        """Its HealthState."""
        return _STATES[self.c.state]

    @property
    def status(self):
        """Its state in the words of APISIX's ``/v1/healthcheck``."""
        return _STATUSES[self.c.state]

    @property
    def counters(self):
        """The four counters, named as in APISIX's ``/v1/healthcheck``."""
        return {
            "success": self.c.counters[SUCCESS],
            "http_failure": self.c.counters[HTTP_FAILURE],
            "tcp_failure": self.c.counters[TCP_FAILURE],
            "timeout_failure": self.c.counters[TIMEOUT],
        }

    @property
    def cause(self):
        """Who found it out; NONE while it is usable."""
        return _CAUSES[self.c.cause]

    @property
    def in_flight(self):
        """Attempts that were picked and have not ended."""
        return self.c.in_flight

    @property
    def max_in_flight(self):
        """0 = no limit."""
        return self.c.max_in_flight

    @property
    def picks(self):
        """How often it was picked, ever."""
        return self.c.picks

    @property
    def outcomes(self):
        """How its attempts ended, ever: counts by the number given to ``release``."""
        return tuple([self.c.outcomes[kind] for kind in range(OUTCOME_KINDS)])

    @property
    def generation(self):
        """How often it went from usable to unusable."""
        return self.c.generation

    @property
    def verdict(self):
        """How often anything about its standing changed."""
        return self.c.verdict

    @property
    def ejected_until(self):
        """Monotonic seconds, 0 = not ejected."""
        return self.c.ejected_until

    @property
    def cooling_until(self):
        """Monotonic seconds, 0 = not cooling; it stays set until a request succeeded."""
        return self.c.cooling_until

    @property
    def dead_until(self):
        """Monotonic seconds, 0 = not dead; it stays set until a request succeeded."""
        return self.c.dead_until

    @property
    def probe_failing(self):
        """The last probe failed."""
        return bool(self.c.probe_failing)

    @property
    def traffic_failed_at(self):
        """When live traffic last failed without a success since; 0 = never."""
        return self.c.traffic_failed_at

    # --- Standing ---

    cpdef bint is_usable(self) noexcept:
        """Healthy or mostly healthy: all that APISIX asks."""
        return is_usable_state(self.c)

    cpdef bint is_available(self, double now, bint trials=True) noexcept:
        """May be picked at ``now``, if only for a trial, and is below its in-flight limit."""
        return standing_of(self.c, now, trials) <= HALF_OPEN and not is_full(self.c)

    cpdef bint is_out_by_probes(self) noexcept:
        """Unhealthy, and it was probes that found it so."""
        return not is_usable_state(self.c) and self.c.cause == CAUSE_ACTIVE

    cpdef bint is_cooling(self) noexcept:
        """A cooling term was set and no request has succeeded since its end."""
        return self.c.cooling_until != 0.0

    cpdef bint is_dead(self) noexcept:
        """A dead term was set and no request has succeeded since its end."""
        return self.c.dead_until != 0.0

    cpdef bint is_failing(self, double now, int min_requests, int percent) noexcept:
        """More than ``percent`` of at least ``min_requests`` results of the last 10 s are failures."""
        cdef int64_t total, failed
        sum_window(self.c, now, &total, &failed)
        return total >= min_requests and failed * 100 > total * percent

    def failure_ratio(self, double now):
        """``(total, failed)`` of the last 10 s."""
        cdef int64_t total, failed
        sum_window(self.c, now, &total, &failed)
        return total, failed

    # --- Reports ---

    cpdef int report(self, int kind, long long limit) except -1:
        """Count one success or failure; move the state machine.

        A limit of 0 switches this kind off. A success while exactly healthy and a failure while
        exactly unhealthy change nothing. A success zeroes the failures, a failure zeroes the
        successes and leaves the other failures. The counter that reaches its limit decides the
        state and keeps its value.

        Args:
            kind: a Report.
            limit: the threshold of whoever reports, live traffic or probes; they share the counters.
        Returns 1 if the node changed between usable and unusable, else 0.
        Source: lua-resty-healthcheck, incr_counter().
        """
        if not SUCCESS <= kind <= TIMEOUT:
            raise ValueError(f"not a kind of report: {kind}")
        return report_to(self.c, kind, limit)

    cpdef bint note_result(self, bint failed, double now) noexcept:
        """Count one result in the window of the last 10 s.

        Returns whether the record holds anything that a success could clear.
        """
        cdef node_t *c = self.c
        count_in_window(c, failed, now)
        return (
            c.state != HEALTHY
            or c.cooling_until != 0.0
            or c.dead_until != 0.0
            or c.traffic_failed_at != 0.0
            or (c.forbidden | c.coolings | c.deaths) != 0
        )

    cpdef void note_traffic_failure(self, double now) noexcept:
        """Remember that live traffic failed; a probe's success must not wipe that away."""
        self.c.traffic_failed_at = now

    cpdef void note_probe(self, bint failing, double expires) noexcept:
        """Remember a probe's word. It holds back trials until ``expires``, or a newer one."""
        self.c.probe_failing = failing
        self.c.probe_expires = expires

    # --- Verdicts ---

    cpdef void eject(self, double until, int cause) noexcept:
        """Make it unhealthy, not to be tried before ``until``; a later term is not shortened."""
        eject_node(self.c, until, cause)

    cpdef double eject_for(self, double now, double base_s, double max_s, double spread) noexcept:
        """Eject because of live traffic, for a term that doubles up to ``max_s``. Returns its end.

        60 s of health make the next ejection the first one again. ``spread`` is a factor (jitter).
        """
        cdef node_t *c = self.c
        if c.healed_at != 0.0 and now - c.healed_at >= GROWTH_MEMORY_S:
            c.ejections = 0
        cdef double until = now + grown(base_s, max_s, c.ejections) * spread
        c.ejections += 1
        eject_node(c, until, CAUSE_PASSIVE)
        return until

    cpdef void cool(self, double until) noexcept:
        """Busy until then. An earlier end changes nothing."""
        if until > self.c.cooling_until:
            self.c.cooling_until = until
            self.c.verdict += 1

    cpdef double cool_for(self, double now, double base_s, double max_s, double spread) noexcept:
        """As ``cool``, for a term that doubles until a request succeeds. Returns its end."""
        cdef double until = now + grown(base_s, max_s, self.c.coolings) * spread
        self.c.coolings += 1
        self.cool(until)
        return until

    cpdef void kill(self, double until) noexcept:
        """Its credential is refused; try again then. An earlier end changes nothing."""
        if until > self.c.dead_until:
            self.c.dead_until = until
            self.c.verdict += 1

    cpdef double kill_for(self, double now, double base_s, double max_s) noexcept:
        """As ``kill``, for a term that doubles until a request succeeds. Returns its end."""
        cdef double until = now + grown(base_s, max_s, self.c.deaths)
        self.c.deaths += 1
        self.kill(until)
        return until

    cpdef int count_forbidden(self) noexcept:
        """Count one 403; returns how many there were without a success in between."""
        self.c.forbidden += 1
        return self.c.forbidden

    cpdef void hold_panic(self, double until) noexcept:
        """A request failed on it while it is out: not even in panic before then."""
        self.c.panic_after = until

    cpdef void absolve(self, double now) noexcept:
        """A request succeeded: cooling and dead terms that are over no longer need a trial."""
        cdef node_t *c = self.c
        c.traffic_failed_at = 0.0
        if c.cooling_until != 0.0 and now >= c.cooling_until:
            c.cooling_until = 0.0
            c.verdict += 1
        if c.dead_until != 0.0 and now >= c.dead_until:
            c.dead_until = 0.0
            c.verdict += 1
        if c.cooling_until == 0.0:
            c.coolings = 0
        if c.dead_until == 0.0:
            c.deaths = 0
            c.forbidden = 0

    cpdef void heal(self, double now) noexcept:
        """Healthy as of now: because a report made it usable again, or by decree."""
        heal_node(self.c, now)

    # --- Leaving ---

    cpdef void release(self, int kind, double lease=0.0, int outcome=0) noexcept:
        """An attempt has ended: call exactly once per pick.

        Args:
            kind, lease: the selector's ``picked_kind`` and ``picked_lease``.
            outcome: which of ``outcomes`` to count, 0 to 7.
        """
        release_node(self.c, kind, lease, outcome)


def _within(str what, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{what} must be {low} to {high}, not {value}")
    return value


# --- Picking -----------------------------------------------------------------------------------


@cython.final
@cython.freelist(64)
cdef class Tried:
    """The positions in one selector that one exchange has tried."""

    cpdef void add(self, int position) except *:
        """Add a position; adding it again changes nothing. IndexError outside 0 to 1023."""
        if not 0 <= position < MAX_NODES:
            raise IndexError(position)
        cdef uint64_t bit = <uint64_t>1 << (position & 63)
        if not self.bits[position >> 6] & bit:
            self.bits[position >> 6] |= bit
            self.count += 1

    cpdef void clear(self) noexcept:
        """Forget them all."""
        memset(self.bits, 0, sizeof(self.bits))
        self.count = 0

    def __contains__(self, int position):
        if not 0 <= position < MAX_NODES:
            return False
        return bool(self.bits[position >> 6] >> (position & 63) & 1)

    def __len__(self):
        return self.count


cdef inline const uint64_t *bits_of(Tried tried) noexcept:
    """The set as ``Selector.choose`` takes it: NULL when nothing was tried."""
    return tried.bits if tried is not None and tried.count else NULL


@cython.freelist(256)
@cython.no_gc  # what it refers to never refers to it
cdef class Pick:
    """One request on one node, from ``Selector.pick_into`` until ``end``.

    It remembers what was known of the node, so that late news can be told from fresh, and gives the
    node's places back exactly once, at the latest when it is dropped. Subclasses without fields of
    their own share its free list.

    ``kind`` is a PickKind; ``outcome`` is -1 before the pick, 0 while it lasts, then what ``end`` was
    given; ``owner`` is free for the caller.
    """

    def __cinit__(self):
        self.outcome = -1

    def __dealloc__(self):
        if self.outcome == 0:
            release_node(self.node.c, self.kind, self.lease, ABANDONED)

    cpdef bint is_out_of_date(self) noexcept:
        """The node became unusable after this pick, even if it is back since."""
        return self.node is not None and self.node.c.generation != self.generation

    cpdef bint is_overtaken(self) noexcept:
        """Anything about the node's standing changed after this pick."""
        return self.node is not None and self.node.c.verdict != self.verdict

    cpdef bint answer(self) noexcept:
        """The node has begun to answer: this is news as of now, and a trial is over.

        Returns False, with no effect, if this was said before or the pick has ended.
        """
        cdef node_t *c
        if self.outcome or self.has_answered:
            return False
        self.has_answered = True
        if self.kind == NORMAL:
            return True
        c = self.node.c
        if self.kind == TRIAL and c.trial_expires == self.lease:
            c.trial_expires = 0.0
        self.generation = c.generation
        self.verdict = c.verdict
        return True

    cpdef bint end(self, int outcome) noexcept:
        """Give the node's places back and count ``outcome`` (1 to 7). False if it has ended before."""
        if self.outcome:
            return False
        self.outcome = outcome
        release_node(self.node.c, self.kind, self.lease, outcome)
        return True


@cython.final
cdef class Selector:
    """Picks nodes: by tier, by weight inside a tier, never one that is out while another is not.

    Over every window of sum(weights)/gcd picks, with the set of healthy nodes unchanged, each node
    is taken exactly weight/gcd times, evenly spread. Picks that had to leave a healthy node out (tried, or
    at its in-flight limit) keep a schedule of their own and do not disturb that one.

    A half-open node is taken first, one request at a time, but by those only that have tried nothing
    yet; one that has failed somewhere tries it only when no usable node is left in any tier.

    When every node is out (``panic``): ``"trials"`` lets a bounded number of requests try those that
    are not dead, highest tier first, cooling ones last. ``"all"`` is APISIX's: all are usable.

    Args:
        nodes: at most 1,024, each once; their order is their position.
        panic: ``"trials"`` or ``"all"``.
        panic_in_flight: requests at a time on one node in panic ``"trials"``.
        trials: False: an unhealthy node waits for reports, no traffic tries it (APISIX).
        trial_lease_s: a trial that has not ended after this time no longer keeps the next one back.
    Raises:
        ValueError: too many nodes, one twice, or an unknown panic rule.
    """

    def __cinit__(
        self,
        nodes,
        *,
        str panic not None="trials",
        int panic_in_flight=8,
        bint trials=True,
        double trial_lease_s=4.0,
    ):
        cdef int count, index
        cdef Node node
        self.nodes = tuple(nodes)
        if len(self.nodes) > MAX_NODES:
            raise ValueError(f"at most {MAX_NODES} nodes, not {len(self.nodes)}")
        if len(set(self.nodes)) != len(self.nodes):
            raise ValueError("a node may be in a selector only once")
        if panic not in ("trials", "all"):
            raise ValueError(f"panic must be 'trials' or 'all', not {panic!r}")
        self.panics_for_all = panic == "all"
        self.panic_in_flight = panic_in_flight
        self.trials = trials
        self.trial_lease_s = trial_lease_s
        self.picked_position = -1
        count = len(self.nodes)
        self.places = <place_t *>PyMem_Calloc(max(count, 1), sizeof(place_t))
        self.tier_ends = <int32_t *>PyMem_Calloc(max(count, 1), sizeof(int32_t))
        if self.places == NULL or self.tier_ends == NULL:
            raise MemoryError
        for node in self.nodes:
            if node is None:
                raise TypeError("a node is needed, not None")
        weighted = {node.priority for node in self.nodes if node.weight}
        order = sorted(range(count), key=lambda position: -self.nodes[position].priority)
        priority = None
        for index in range(count):
            node = self.nodes[order[index]]
            if node.priority != priority:
                priority = node.priority
                self.tier_count += 1
            self.tier_ends[self.tier_count - 1] = index + 1
            self.places[index].node = node.c
            self.places[index].weight = node.weight
            self.places[index].share = node.weight if priority in weighted else 1
            self.places[index].position = order[index]

    def __dealloc__(self):
        PyMem_Free(self.places)
        PyMem_Free(self.tier_ends)

    def __len__(self):
        return len(self.nodes)

    def __repr__(self):
        return f"<Selector {len(self.nodes)} nodes in {self.tier_count} tiers>"

    cpdef Node pick(self, double now, Tried tried=None):
        """Return the next node and take one of its in-flight places, or None: nothing may be picked.

        Each candidate's credit grows by its weight; the richest wins and pays the sum back. End
        every pick with ``node.release(selector.picked_kind, selector.picked_lease)``.

        Args:
            now: monotonic time, seconds.
            tried: positions to leave out.
        Source: nginx, ngx_http_upstream_get_peer; without effective_weight, since we eject instead.
        """
        cdef int position = self.choose(now, bits_of(tried))
        return <Node>self.nodes[position] if position >= 0 else None

    cpdef bint pick_into(self, Pick pick, double now, Tried tried=None) except -1:
        """As ``pick``, kept in ``pick``, which must be a new one; False: nothing may be picked.

        The position picked is added to ``tried``.
        """
        cdef int position
        cdef Node node
        if pick is None or pick.outcome != -1:
            raise ValueError("a new Pick is needed")
        position = self.choose(now, bits_of(tried))
        if position < 0:
            return False
        node = <Node>self.nodes[position]
        pick.node = node
        pick.position = position
        pick.kind = self.picked_kind
        pick.lease = self.picked_lease
        pick.started_at = now
        pick.generation = node.c.generation
        pick.verdict = node.c.verdict
        pick.outcome = 0
        if tried is not None:
            tried.add(position)
        return True

    cpdef double next_recovery(self, double now) noexcept:
        """When the first node is expected back; ``now`` if one is available. Panic does not count."""
        cdef double earliest = now + UNKNOWN_RECOVERY_S
        cdef double at
        cdef int i
        cdef int count = self.tier_ends[self.tier_count - 1] if self.tier_count else 0
        for i in range(count):
            at = recovery_of(self.places[i].node, now, self.trials)
            if i == 0 or at < earliest:
                earliest = at
        return earliest

    cdef int choose(self, double now, const uint64_t *tried) noexcept nogil:
        cdef int tier, index, end, trial
        cdef int first = 0
        cdef int later_trial = -1
        cdef bint any_usable = False
        for tier in range(self.tier_count):
            end = self.tier_ends[tier]
            index = self.choose_in_tier(first, end, now, tried, False, &trial, &any_usable)
            if trial >= 0 and later_trial < 0:
                if tried == NULL:
                    return self.take(trial, TRIAL, now)
                later_trial = trial
            if index >= 0:
                return self.take(index, NORMAL, now)
            first = end
        if later_trial >= 0:
            return self.take(later_trial, TRIAL, now)
        if not self.panics_for_all:
            index = self.choose_in_panic(now, tried)
            return self.take(index, PANIC, now) if index >= 0 else -1
        if any_usable:
            return -1
        first = 0
        for tier in range(self.tier_count):
            end = self.tier_ends[tier]
            index = self.choose_in_tier(first, end, now, tried, True, &trial, &any_usable)
            if index >= 0:
                return self.take(index, PANIC, now)
            first = end
        return -1

    cdef int choose_in_tier(
        self, int first, int end, double now, const uint64_t *tried, bint forced, int *trial, bint *any_usable
    ) noexcept nogil:
        """Index of the place whose turn it is in this tier, or -1.

        Args:
            forced: take every node for healthy.
            trial: set to the half-open place that may have its trial, or -1.
            any_usable: set if a node of the tier is usable, tried or not.
        """
        cdef place_t *place
        cdef const node_t *c
        cdef int i, standing
        trial[0] = -1
        if tried == NULL and self.is_plain(first, end):
            any_usable[0] = True
            return self.next_in_schedule(first, end)
        cdef bint is_changed = False
        cdef bint is_left_out
        # [0]: nodes of weight 0, [1]: the others
        cdef int open_count[2]
        cdef int left_out[2]
        cdef int last_open[2]
        cdef int half_open[2]
        cdef int has_weight
        cdef int usable = 0
        for i in range(2):
            open_count[i] = left_out[i] = 0
            last_open[i] = half_open[i] = -1
        for i in range(first, end):
            place = &self.places[i]
            c = place.node
            has_weight = place.weight > 0
            standing = OPEN if forced else standing_of(c, now, self.trials)
            place.is_usable = standing == OPEN
            place.is_open = False
            is_changed |= place.is_usable != place.is_member
            if standing > HALF_OPEN:
                continue
            is_left_out = is_full(c) or (
                tried != NULL and (tried[place.position >> 6] >> (place.position & 63) & 1)
            )
            if standing == HALF_OPEN:
                if not is_left_out and half_open[has_weight] < 0:
                    half_open[has_weight] = i
                continue
            usable += 1
            if is_left_out:
                left_out[has_weight] += 1
            else:
                place.is_open = True
                open_count[has_weight] += 1
                last_open[has_weight] = i

        trial[0] = half_open[1]
        if trial[0] < 0 and open_count[1] == 0:
            trial[0] = half_open[0]
        if usable:
            any_usable[0] = True
            if is_changed:  # a schedule is about one set of nodes
                for i in range(first, end):
                    place = &self.places[i]
                    place.is_member = place.is_usable
                    place.credit = 0
                    place.spare = 0
        if trial[0] >= 0 and tried == NULL:
            return -1
        has_weight = open_count[1] > 0
        if open_count[has_weight] <= 1:
            return last_open[has_weight]  # no choice: nobody gains, nobody pays
        # Nodes of weight 0 stand in only for those of their tier that are out: then they are the set.
        return self.richest(first, end, has_weight, left_out[1] == 0 and (has_weight or left_out[0] == 0))

    cdef inline bint is_plain(self, int first, int end) noexcept nogil:
        """Every node of this tier can be picked, as it could when the schedule began."""
        cdef const place_t *place = &self.places[first]
        cdef const place_t *stop = &self.places[end]
        cdef const node_t *c
        while place < stop:
            c = place.node
            if (
                not place.is_member
                or not is_usable_state(c)
                or c.cooling_until != 0.0
                or c.dead_until != 0.0
                or is_full(c)
            ):
                return False
            place += 1
        return True

    cdef inline int next_in_schedule(self, int first, int end) noexcept nogil:
        """``richest`` of a tier of which no node is left out; one of weight 0 is if another has weight."""
        cdef place_t *place = &self.places[first]
        cdef place_t *stop = &self.places[end]
        cdef place_t *best = place
        cdef int64_t total = 0
        if end - first == 1:
            return first
        while place < stop:
            place.credit += place.share
            total += place.share
            if place.credit > best.credit:
                best = place
            place += 1
        best.credit -= total
        return <int>(best - self.places)

    cdef int richest(self, int first, int end, bint has_weight, bint is_main) noexcept nogil:
        """The open place of this tier with the most credit, after each has gained its weight; it pays."""
        cdef place_t *place
        cdef int64_t gain, credit
        cdef int64_t total = 0
        cdef int64_t most = 0
        cdef int best = -1
        cdef int i
        for i in range(first, end):
            place = &self.places[i]
            if not place.is_open or (place.weight > 0) != has_weight:
                continue
            gain = place.weight if has_weight else 1
            total += gain
            if is_main:
                place.credit += gain
                credit = place.credit
            else:
                place.spare += gain
                credit = place.spare
            if best < 0 or credit > most:
                best = i
                most = credit
        place = &self.places[best]
        if is_main:
            place.credit -= total
        else:
            place.spare -= total
        return best

    cdef int choose_in_panic(self, double now, const uint64_t *tried) noexcept nogil:
        """All nodes are out: the place to try nevertheless, or -1."""
        cdef place_t *place
        cdef const node_t *c
        cdef int i, tier, standing, first
        cdef int64_t rank
        cdef int64_t best_rank = 0
        cdef int best = -1
        cdef bint takes_cooling
        for takes_cooling in range(2):
            first = 0
            for tier in range(self.tier_count):
                for i in range(first, self.tier_ends[tier]):
                    place = &self.places[i]
                    c = place.node
                    standing = standing_of(c, now, self.trials)
                    # A dead one waits for its trial; an open one is left out for another reason.
                    if standing < ON_TRIAL or c.dead_until != 0.0 or (standing == COOLING) != takes_cooling:
                        continue
                    if tried != NULL and (tried[place.position >> 6] >> (place.position & 63) & 1):
                        continue
                    if is_full(c) or c.panic_in_flight >= self.panic_in_flight or now < c.panic_after:
                        continue
                    # One of weight 0 only if there is no other; then the one with the fewest.
                    rank = <int64_t>c.panic_in_flight + (0 if place.weight else self.panic_in_flight)
                    if best < 0 or rank < best_rank:
                        best = i
                        best_rank = rank
                if best >= 0:
                    return best
                first = self.tier_ends[tier]
        return -1

    cdef int take(self, int index, int kind, double now) noexcept nogil:
        """Enter the pick in the node's record and in ``picked_*``; returns its position."""
        cdef node_t *c = self.places[index].node
        c.in_flight += 1
        c.picks += 1
        self.picked_lease = 0.0
        if kind == TRIAL:
            c.trial_expires = now + self.trial_lease_s
            self.picked_lease = c.trial_expires
        elif kind == PANIC:
            c.panic_in_flight += 1
        self.picked_kind = kind
        self.picked_position = self.places[index].position
        return self.picked_position
