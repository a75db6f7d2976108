"""Nodes and what their health is.

The four counters and the four states of APISIX's health checks, and the terms for which a node is
out (ejected, cooling, dead). No I/O, no clock. A node's state is one flat C record (``_record.pxd``),
which may lie in memory that worker processes share.

What a node's record says at a time is its *standing*. A node is out while a term runs (dead,
cooling) or while its state is unhealthy or mostly_unhealthy. When the term is over it is
*half-open*: one request at a time may try it, holding a lease that expires, so that a trial of
which nothing is heard again cannot keep a recovered node out.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgw._record cimport (
    CAUSE_ACTIVE,
    HALF_OPEN,
    HEALTHY,
    HTTP_FAILURE,
    MOSTLY_HEALTHY,
    OUTCOME_KINDS,
    SUCCESS,
    TCP_FAILURE,
    TIMEOUT,
    TRIAL,
    absolve_node,
    begin_outage,
    bury_part,
    clear_panic,
    count_end,
    count_in_window,
    count_report,
    eject_for_longer,
    eject_node,
    enter_record,
    extend_term,
    grown,
    heal_node,
    in_flight_of,
    is_full,
    is_usable_state,
    leave_record,
    node_t,
    outcomes_of,
    part_of,
    part_t,
    picks_of,
    recovery_of,
    return_trial,
    revive_node,
    set_state,
    standing_of,
    sum_window,
)
from fastgw._shm cimport (
    add_i32,
    load_f64,
    load_i32,
    load_i64,
    rounded,
    slots_size,
    store_f64,
    store_i32,
)

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


TRANSITIONS = {
    HealthState.HEALTHY: frozenset({HealthState.MOSTLY_HEALTHY, HealthState.UNHEALTHY}),
    HealthState.MOSTLY_HEALTHY: frozenset({HealthState.HEALTHY, HealthState.UNHEALTHY}),
    HealthState.MOSTLY_UNHEALTHY: frozenset({HealthState.HEALTHY, HealthState.UNHEALTHY}),
    HealthState.UNHEALTHY: frozenset({HealthState.HEALTHY, HealthState.MOSTLY_UNHEALTHY}),
}

cdef tuple _STATES = tuple(HealthState)
cdef tuple _STATUSES = tuple([state.name.lower() for state in HealthState])
cdef tuple _CAUSES = tuple(Cause)


# --- Tables and nodes --------------------------------------------------------------------------


@cython.final
@cython.no_gc
cdef class NodeTable(SlotTable):
    """A block of node records, its own or in memory that it shares with the tables of other workers.

    Nodes with the same key have the same record, in all workers; it is vacated, and wiped before it is
    handed out again, when nobody uses it any more. Nodes without a key get records in order, so that
    workers which make the same nodes in the same order see the same records.

    A worker makes its table and its nodes itself, after it was forked: objects that it inherits would
    give back what is their first owner's.

    Args:
        capacity: how many records it can hold, at least 1.
        memory: a writable, contiguous buffer of at least ``bytes_needed(capacity, workers)`` bytes;
            zeroed means empty. It stays exported for as long as the table lives.
        worker, workers: which one this is, of how many (at most 64).
    Raises:
        ValueError: a number is out of range, or the memory too small, not aligned to 8 bytes or
            laid out for other numbers.
    """

    def __cinit__(self, int capacity=1024, memory=None, *, int worker=0, int workers=1):
        self.block = <node_t *>self.lay_out_slots(
            memory, records_size(capacity, workers), capacity, worker, workers
        )
        self.parts = <char *>self.block + rounded(capacity * <Py_ssize_t>sizeof(node_t))

    @staticmethod
    def bytes_needed(int capacity, int workers=1):
        """Size of the memory for this many nodes and workers."""
        return slots_size(capacity, workers) + records_size(capacity, workers)

    def __repr__(self):
        return f"<NodeTable {len(self)} of {self.capacity} nodes, worker {self.worker} of {self.workers}>"

    cdef void wipe(self, int slot) noexcept:
        cdef node_t *c = &self.block[slot]
        cdef Py_ssize_t step = self.capacity * <Py_ssize_t>sizeof(part_t)
        cdef char *part = self.parts + slot * <Py_ssize_t>sizeof(part_t)
        cdef int worker
        memset(c, 0, sizeof(node_t))
        for worker in range(self.workers):
            memset(part + worker * step, 0, sizeof(part_t))
        c.first_part = part - <char *>c
        c.part_step = step
        c.workers = self.workers

    def recover(self, int worker):
        """Clear up after a worker that is dead, before another one takes its place.

        Its requests under way are over (outcome 7), its trials and locks are free, and records that
        nobody else uses may be handed out again; until they are, their keys find them as they were.
        Must not be called for one that lives. Calling it again changes nothing.

        Returns:
            How many requests it had under way.
        """
        cdef int slot
        cdef int64_t count = 0
        self.check(worker)
        for slot in range(load_i32(&self.header.used)):
            # Without a reference it had nothing under way, and the record may be another's by now.
            if self.references_of(worker, slot):
                count += bury_part(&self.block[slot], worker)
        self.bury(worker)
        return count


cdef inline Py_ssize_t records_size(Py_ssize_t capacity, Py_ssize_t workers) noexcept:
    return rounded(capacity * <Py_ssize_t>sizeof(node_t)) + workers * capacity * <Py_ssize_t>sizeof(part_t)


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
        key: which record of the table; None means the next one.
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
        str key=None,
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
            self.worker = self.elder.worker
            self.c = self.elder.c
        elif table is None:
            self.c = <node_t *>PyMem_Calloc(1, sizeof(node_t) + sizeof(part_t))
            if self.c == NULL:
                raise MemoryError
            self.c.first_part = sizeof(node_t)
            self.c.workers = 1
        else:
            self.slot = table.take(key)
            self.table = table
            self.worker = table.worker
            self.c = &table.block[self.slot]
        self.part = part_of(self.c, self.worker)
        store_i32(&self.c.max_in_flight, limit)

    def __dealloc__(self):
        if self.elder is not None:
            pass  # the record is the elder's
        elif self.table is not None:
            self.table.give_back(self.slot)
        else:
            PyMem_Free(self.c)

    def __repr__(self):
        address = f"{self.host}:{self.port}"
        if self.dead_until:
            standing = f"dead until {self.dead_until:.1f}s"
        elif self.cooling_until:
            standing = f"cooling until {self.cooling_until:.1f}s"
        elif self.is_usable():
            standing = self.status
        elif self.is_out_by_probes():
            standing = "ejected by probes"
        else:
            standing = f"ejected until {self.ejected_until:.1f}s"
        return (
            f"<Node {'' if self.name == address else self.name + ' '}{address}"
            f" tier={self.priority} weight={self.weight} {standing} in_flight={self.in_flight}>"
        )

    # --- What it looks like ---

    @property
    def state(self):
        """Its HealthState."""
        return _STATES[load_i32(&self.c.state)]

    @property
    def status(self):
        """Its state in the words of APISIX's ``/v1/healthcheck``."""
        return _STATUSES[load_i32(&self.c.state)]

    @property
    def counters(self):
        """The four counters, named as in APISIX's ``/v1/healthcheck``."""
        return {
            "success": load_i64(&self.c.counters[SUCCESS]),
            "http_failure": load_i64(&self.c.counters[HTTP_FAILURE]),
            "tcp_failure": load_i64(&self.c.counters[TCP_FAILURE]),
            "timeout_failure": load_i64(&self.c.counters[TIMEOUT]),
        }

    @property
    def cause(self):
        """Who found it out; NONE while it is usable."""
        return _CAUSES[load_i32(&self.c.cause)]

    @property
    def in_flight(self):
        """Attempts that were picked and have not ended, of all workers."""
        return in_flight_of(self.c)

    @property
    def max_in_flight(self):
        """0 = no limit. Of the record, like the health: it holds for all nodes that share it."""
        return load_i32(&self.c.max_in_flight)

    @max_in_flight.setter
    def max_in_flight(self, limit):
        store_i32(&self.c.max_in_flight, _within("max_in_flight", limit, 0, 2**31 - 1))

    @property
    def picks(self):
        """How often it was picked, ever."""
        return picks_of(self.c)

    @property
    def outcomes(self):
        """How its attempts ended, ever: counts by the number given to ``release``."""
        return tuple([outcomes_of(self.c, kind) for kind in range(OUTCOME_KINDS)])

    @property
    def generation(self):
        """How often it went from usable to unusable."""
        return load_i64(&self.c.generation)

    @property
    def verdict(self):
        """How often anything about its standing changed."""
        return load_i64(&self.c.verdict)

    @property
    def ejected_until(self):
        """Monotonic seconds, 0 = not ejected."""
        return load_f64(&self.c.ejected_until)

    @property
    def cooling_until(self):
        """Monotonic seconds, 0 = not cooling; it stays set until a request succeeded."""
        return load_f64(&self.c.cooling_until)

    @property
    def dead_until(self):
        """Monotonic seconds, 0 = not dead; it stays set until a request succeeded."""
        return load_f64(&self.c.dead_until)

    @property
    def probe_failing(self):
        """The last probe failed."""
        return bool(load_i32(&self.c.probe_failing))

    @property
    def traffic_failed_at(self):
        """When live traffic last failed without a success since; 0 = never."""
        return load_f64(&self.c.traffic_failed_at)

    @property
    def ramp_from(self):
        """When it came back after an outage, while its share still grows; 0: it has all of it."""
        return load_f64(&self.c.ramp_from)

    # --- Standing ---

    cpdef bint is_usable(self) noexcept:
        """Healthy or mostly healthy: all that APISIX asks."""
        return is_usable_state(self.c)

    cpdef bint is_available(self, double now, bint trials=True) noexcept:
        """May be picked at ``now``, if only for a trial, and is below its in-flight limit."""
        return standing_of(self.c, now, trials) <= HALF_OPEN and not is_full(self.c)

    cpdef double recovery(self, double now, bint trials=True) noexcept:
        """When it may be picked again, as far as anybody can say; ``now`` if it is available."""
        return recovery_of(self.c, now, trials)

    cpdef bint is_out_by_probes(self) noexcept:
        """Unhealthy, and it was probes that found it so."""
        return not is_usable_state(self.c) and load_i32(&self.c.cause) == CAUSE_ACTIVE

    cpdef bint is_cooling(self) noexcept:
        """A cooling term was set and no request has succeeded since its end."""
        return load_f64(&self.c.cooling_until) != 0.0

    cpdef bint is_dead(self) noexcept:
        """A dead term was set and no request has succeeded since its end."""
        return load_f64(&self.c.dead_until) != 0.0

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

    # --- One at a time ---

    cpdef bint enter(self) noexcept:
        """Keep other workers from changing this node until ``leave``: to look and then act, in one step.

        Waits a millisecond at most: what follows must be right without it, if less exact. The methods
        below do so themselves. Returns what ``leave`` must be given.
        """
        return enter_record(self.c, self.worker)

    cpdef void leave(self, bint entered) noexcept:
        """End what ``enter`` began."""
        leave_record(self.c, self.worker, entered)

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
        cdef bint entered, crossed
        if not SUCCESS <= kind <= TIMEOUT:
            raise ValueError(f"not a kind of report: {kind}")
        if kind == SUCCESS and load_i32(&self.c.state) == HEALTHY:
            return 0
        entered = enter_record(self.c, self.worker)
        crossed = set_state(self.c, count_report(self.c, kind, limit))
        leave_record(self.c, self.worker, entered)
        return crossed

    cpdef bint fail(
        self, int kind, long long limit, bint enough, double now, double base_s, double max_s, double spread
    ) except -1:
        """``report`` a failure of live traffic; ``eject_for`` if that was one too many, or is ``enough``.

        In one step, so that no worker sees the node unusable for no time. Returns whether it ejected.
        """
        cdef bint entered, ejects
        cdef int state
        if not HTTP_FAILURE <= kind <= TIMEOUT:
            raise ValueError(f"not a kind of failure: {kind}")
        entered = enter_record(self.c, self.worker)
        state = count_report(self.c, kind, limit)
        ejects = enough or (state > MOSTLY_HEALTHY and is_usable_state(self.c))
        if ejects:
            eject_for_longer(self.c, now, base_s, max_s, spread)
        else:
            set_state(self.c, state)
        leave_record(self.c, self.worker, entered)
        return ejects

    cpdef bint note_result(self, bint failed, double now) noexcept:
        """Count one result in the window of the last 10 s.

        Returns whether the record holds anything that a success could clear.
        """
        cdef const node_t *c = self.c
        count_in_window(c, self.part, failed, now)
        return (
            load_i32(&c.state) != HEALTHY
            or load_f64(&c.cooling_until) != 0.0
            or load_f64(&c.dead_until) != 0.0
            or load_f64(&c.traffic_failed_at) != 0.0
            or (load_i32(&c.forbidden) | load_i32(&c.coolings) | load_i32(&c.deaths)) != 0
        )

    cpdef void note_traffic_failure(self, double now) noexcept:
        """Remember that live traffic failed; a probe's success must not wipe that away."""
        store_f64(&self.c.traffic_failed_at, now)

    cpdef void note_probe(self, bint failing, double expires) noexcept:
        """Remember a probe's word. It holds back trials until ``expires``, or a newer one."""
        store_f64(&self.c.probe_expires, expires)
        store_i32(&self.c.probe_failing, failing)

    # --- Verdicts ---

    cpdef void eject(self, double until, int cause) noexcept:
        """Make it unhealthy, not to be tried before ``until``; a later term is not shortened."""
        cdef bint entered = enter_record(self.c, self.worker)
        eject_node(self.c, until, cause)
        leave_record(self.c, self.worker, entered)

    cpdef double eject_for(self, double now, double base_s, double max_s, double spread) noexcept:
        """Eject because of live traffic, for a term that doubles up to ``max_s``. Returns its end.

        60 s of health make the next ejection the first one again. ``spread`` is a factor (jitter).
        """
        cdef bint entered = enter_record(self.c, self.worker)
        cdef double until = eject_for_longer(self.c, now, base_s, max_s, spread)
        leave_record(self.c, self.worker, entered)
        return until

    cpdef void cool(self, double until) noexcept:
        """Busy until then. An earlier end changes nothing."""
        extend_term(self.c, &self.c.cooling_until, until)

    cpdef double cool_for(
        self, double now, double base_s, double max_s, double spread, double told=0.0
    ) noexcept:
        """As ``cool``, for a term that doubles until a request succeeds. Returns its end.

        A time that the node has ``told`` is kept instead. Once it has refused again after such a
        time, none shorter than ``base_s`` is believed.
        """
        cdef int times = add_i32(&self.c.coolings, 1) - 1
        cdef double until = now + grown(base_s, max_s, times) * spread
        if told > now:
            until = told
            if times > 0 and until < now + base_s:
                until = now + base_s
        extend_term(self.c, &self.c.cooling_until, until)
        return until

    cpdef void kill(self, double until) noexcept:
        """Its credential is refused; try again then. An earlier end changes nothing."""
        extend_term(self.c, &self.c.dead_until, until)

    cpdef double kill_for(self, double now, double base_s, double max_s) noexcept:
        """As ``kill``, for a term that doubles until a request succeeds. Returns its end."""
        cdef double until = now + grown(base_s, max_s, add_i32(&self.c.deaths, 1) - 1)
        extend_term(self.c, &self.c.dead_until, until)
        return until

    cpdef bint revive(self, double until, double now) noexcept:
        """Its credential was found good. Returns whether that changed anything.

        The term that ends at ``until``, which was set because the credential had been found bad in
        the same way, is forgotten; of any other one the rest is, and a trial decides.
        """
        cdef bint entered = enter_record(self.c, self.worker)
        cdef bint changed = revive_node(self.c, until, now)
        leave_record(self.c, self.worker, entered)
        return changed

    cpdef int count_forbidden(self) noexcept:
        """Count one 403; returns how many there were without a success in between."""
        return add_i32(&self.c.forbidden, 1)

    cpdef void hold_panic(self, double now, double first_s, double most_s) noexcept:
        """A request failed on it while it is out: for a pause not even panic picks it.

        The pause doubles with each that fails in a row, from ``first_s`` to ``most_s``.
        """
        cdef int pauses
        if now >= load_f64(&self.c.panic_after):  # (others were under way with the one it is held for)
            pauses = add_i32(&self.c.panic_pauses, 1) - 1
            store_f64(&self.c.panic_after, now + grown(first_s, most_s, pauses))

    cpdef void end_panic_pauses(self) noexcept:
        """A request that was picked in panic succeeded."""
        clear_panic(self.c)

    cpdef void note_outage(self, double now) noexcept:
        """It is out as of now, unless it was before: what makes its way back a slow one."""
        begin_outage(self.c, now)

    cpdef void absolve(self, double now, double ramp_after_s=0.0) noexcept:
        """A request succeeded: cooling and dead terms that are over no longer need a trial.

        If nothing else keeps the node out, and it was out for ``ramp_after_s``, its share grows from
        now on; 0: never. ``note_outage`` has said since when.
        """
        cdef bint entered = enter_record(self.c, self.worker)
        absolve_node(self.c, now, ramp_after_s)
        leave_record(self.c, self.worker, entered)

    cpdef void heal(self, double now, double ramp_after_s=0.0) noexcept:
        """Healthy as of now: because a report made it usable again, or by decree.

        ``ramp_after_s`` as for ``absolve``.
        """
        cdef bint entered = enter_record(self.c, self.worker)
        heal_node(self.c, now, ramp_after_s)
        leave_record(self.c, self.worker, entered)

    # --- Leaving ---

    cpdef void release(self, int kind, double lease=0.0, int outcome=0) noexcept:
        """An attempt has ended: call exactly once per pick.

        Args:
            kind, lease: the selector's ``picked_kind`` and ``picked_lease``.
            outcome: which of ``outcomes`` to count, 0 to 7.
        """
        count_end(self.part, kind, outcome)
        if kind == TRIAL:
            return_trial(self.c, lease)


def _within(str what, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{what} must be {low} to {high}, not {value}")
    return value
