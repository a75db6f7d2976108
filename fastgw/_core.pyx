"""The kernel: which node next.

Priority tiers, smooth weighted round robin, trials of half-open nodes, and what is left when all are
out. No I/O, no clock, no allocation on a pick. A selector's schedule is its own, each worker process
has another; what the nodes' records say (``_node.pyx``) may be shared by all of them.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy, memset

from fastgw._record cimport (
    ABANDONED,
    COOLING,
    HALF_OPEN,
    NORMAL,
    ON_TRIAL,
    OPEN,
    PANIC,
    TRIAL,
    UNKNOWN_RECOVERY_S,
    claim_trial,
    count_end,
    count_pick,
    enter_record,
    is_full,
    is_in_order,
    is_usable_state,
    leave_record,
    node_t,
    panic_in_flight_of,
    recovery_of,
    return_trial,
    standing_of,
)
from fastgw._shm cimport load_acquire_i64, load_f64, load_i32, load_i64, sign_f64, swap_f64

from enum import IntEnum

from fastgw._node import TRANSITIONS, Cause, HealthState, NodeTable, Report  # no-cython-lint

globals()["Node"] = Node  # a name that is cimported is not by itself one of the module's


class PickKind(IntEnum):
    """Why a node was picked: available, let in for one trial, or because all nodes are out."""

    NORMAL = 0
    TRIAL = 1
    PANIC = 2


cdef enum:
    LOST = -2  # another worker was faster
    WHOLE_SHARE = 1024
    FIRST_SHARE = 102  # of it, with which a node begins that was out for long
    MOST_TURNS = 1 << 16  # of a schedule, times nodes, that are run through to stagger it


@cython.final
@cython.freelist(64)
cdef class Tried:
    """The positions in one selector that one exchange has tried, or leaves out for a reason of its own.

    Both are not picked; ``len`` counts the tried ones only, and who has tried none may take a trial
    first. ``in`` asks for either.
    """

    cpdef void add(self, int position) except *:
        """Add a position; adding it again changes nothing. IndexError outside 0 to 1023."""
        if not 0 <= position < MAX_NODES:
            raise IndexError(position)
        cdef uint64_t bit = <uint64_t>1 << (position & 63)
        if self.skipped[position >> 6] & bit:
            self.skipped[position >> 6] &= ~bit
            self.skips -= 1
        elif self.bits[position >> 6] & bit:
            return
        self.bits[position >> 6] |= bit
        self.count += 1

    cpdef void skip(self, int position) except *:
        """Leave a position out although it was not tried. IndexError outside 0 to 1023."""
        if not 0 <= position < MAX_NODES:
            raise IndexError(position)
        cdef uint64_t bit = <uint64_t>1 << (position & 63)
        if not self.bits[position >> 6] & bit:
            self.bits[position >> 6] |= bit
            self.skipped[position >> 6] |= bit
            self.skips += 1

    cpdef Tried copy(self):
        """Another set of the same positions."""
        cdef Tried other = Tried.__new__(Tried)
        memcpy(other.bits, self.bits, sizeof(self.bits))
        memcpy(other.skipped, self.skipped, sizeof(self.skipped))
        other.count = self.count
        other.skips = self.skips
        return other

    cpdef void clear(self) noexcept:
        """Forget them all."""
        memset(self.bits, 0, sizeof(self.bits))
        memset(self.skipped, 0, sizeof(self.skipped))
        self.count = 0
        self.skips = 0

    def __contains__(self, int position):
        if not 0 <= position < MAX_NODES:
            return False
        return bool(self.bits[position >> 6] >> (position & 63) & 1)

    def __len__(self):
        return self.count


cdef inline const uint64_t *bits_of(Tried tried) noexcept:
    """The set as ``Selector.choose`` takes it: NULL when nothing is left out."""
    return tried.bits if tried is not None and (tried.count or tried.skips) else NULL


cdef inline bint is_none(Tried tried) noexcept:
    """Nothing was tried yet, whatever is left out."""
    return tried is None or tried.count == 0


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
            give_back(self, ABANDONED)

    cpdef bint is_out_of_date(self) noexcept:
        """The node became unusable after this pick, even if it is back since."""
        return self.node is not None and load_i64(&self.node.c.generation) != self.generation

    cpdef bint is_overtaken(self) noexcept:
        """Anything about the node's standing changed after this pick."""
        return self.node is not None and load_i64(&self.node.c.verdict) != self.verdict

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
        if self.kind == TRIAL:
            return_trial(c, self.lease)
        self.generation = load_i64(&c.generation)
        self.verdict = load_i64(&c.verdict)
        return True

    cpdef bint end(self, int outcome) noexcept:
        """Give the node's places back and count ``outcome`` (1 to 7). False if it has ended before."""
        if self.outcome:
            return False
        self.outcome = outcome
        give_back(self, outcome)
        return True

    cpdef bint settle(self, int outcome) noexcept:
        """As ``end``, but ``leave`` must follow: what the node is told in between, it hears in time.

        A trial that failed must not be given back before the node is ejected again: another worker
        would take it in between.
        """
        if self.outcome:
            return False
        self.outcome = outcome
        return True

    cpdef void leave(self) noexcept:
        """Give the node's places back, once after ``settle``."""
        give_back(self, self.outcome)


cdef inline void give_back(Pick pick, int outcome) noexcept:
    count_end(pick.node.part, pick.kind, outcome)
    if pick.kind == TRIAL and not pick.has_answered:
        return_trial(pick.node.c, pick.lease)


@cython.final
cdef class Selector:
    """Picks nodes: by tier, by weight inside a tier, never one that is out while another is not.

    Over every window of sum(weights)/gcd picks, with the set of healthy nodes unchanged, each node
    is taken exactly weight/gcd times, evenly spread. Picks that had to leave a healthy node out (tried, or
    at its in-flight limit) keep a schedule of their own and do not disturb that one.

    A half-open node is taken first, one request at a time, but by those only that have tried nothing
    yet; one that has failed somewhere tries it only when no usable node is left in any tier.

    A node that is back after an outage (``Node.heal``) does not get its whole share at once. For
    ``slow_start_s`` only a growing part of its turns, from a tenth on, are its own; the others go to
    another node of its tier, or of the next one that has any. Where there is none it takes them all,
    and who has tried something else before is not turned away.

    When every node is out (``panic``): ``"trials"`` lets a bounded number of requests try those that
    are not dead, highest tier first, cooling ones last. ``"all"`` is APISIX's: all are usable.

    Args:
        nodes: at most 1,024, each once; their order is their position.
        panic: ``"trials"`` or ``"all"``.
        panic_in_flight: requests at a time on one node in panic ``"trials"``.
        trials: False: an unhealthy node waits for reports, no traffic tries it (APISIX).
        trial_lease_s: a trial that has not ended after this time no longer keeps the next one back.
        slow_start_s: how long a node's share grows after an outage; 0: not at all.
        stagger: ``(worker, workers)``: begin the schedule that part of its cycle later, so that the
            workers do not all send their first request to the same node. None: as its nodes' table says.
    Raises:
        ValueError: too many nodes, one twice, an unknown panic rule, or no such worker.
    """

    def __cinit__(
        self,
        nodes,
        *,
        str panic not None="trials",
        int panic_in_flight=8,
        bint trials=True,
        double trial_lease_s=4.0,
        double slow_start_s=0.0,
        stagger=None,
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
        self.slow_start_s = slow_start_s
        self.picked_position = -1
        count = len(self.nodes)
        self.places = <place_t *>PyMem_Calloc(max(count, 1), sizeof(place_t))
        self.tier_ends = <int32_t *>PyMem_Calloc(max(count, 1), sizeof(int32_t))
        if self.places == NULL or self.tier_ends == NULL:
            raise MemoryError
        for node in self.nodes:
            if node is None:
                raise TypeError("a node is needed, not None")
        self.workers = 1
        if stagger is not None:
            self.worker, self.workers = stagger
        elif count:
            node = <Node>self.nodes[0]
            self.worker, self.workers = node.worker, node.c.workers
        if not 0 <= self.worker < self.workers:
            raise ValueError(f"stagger must be (worker, workers), not {stagger}")
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
            self.places[index].part = node.part
            self.places[index].worker = node.worker
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
        cdef int position = self.choose(now, bits_of(tried), is_none(tried))
        return <Node>self.nodes[position] if position >= 0 else None

    cpdef bint pick_into(self, Pick pick, double now, Tried tried=None) except -1:
        """As ``pick``, kept in ``pick``, which must be a new one; False: nothing may be picked.

        The position picked is added to ``tried``.
        """
        cdef int position
        cdef Node node
        if pick is None or pick.outcome != -1:
            raise ValueError("a new Pick is needed")
        position = self.choose(now, bits_of(tried), is_none(tried))
        if position < 0:
            return False
        node = <Node>self.nodes[position]
        pick.node = node
        pick.position = position
        pick.kind = self.picked_kind
        pick.lease = self.picked_lease
        pick.started_at = now
        pick.generation = load_acquire_i64(&node.c.generation)
        pick.verdict = load_i64(&node.c.verdict)
        if pick.kind == NORMAL and not is_usable_state(node.c):
            pick.generation -= 1  # another worker has ejected it since we chose it: we are late already
        pick.outcome = 0
        if tried is not None:
            tried.add(position)
        return True

    cpdef bint has_open(self, double now, Tried tried=None) noexcept:
        """Is there a node that is not out, not full and not left out? A pick takes one of these."""
        cdef const uint64_t *bits = bits_of(tried)
        cdef place_t *place
        cdef int i
        for i in range(self.tier_ends[self.tier_count - 1] if self.tier_count else 0):
            place = &self.places[i]
            if (
                standing_of(place.node, now, self.trials) == OPEN
                and not is_full(place.node)
                and (bits == NULL or not bits[place.position >> 6] >> (place.position & 63) & 1)
            ):
                return True
        return False

    cpdef bint awaits_verdict(self, double now, Tried tried=None) except -1:
        """Is it only the requests that try it already which keep a further one off a node that is out?"""
        cdef const uint64_t *bits = NULL
        cdef place_t *place
        cdef int i
        if self.panics_for_all:
            return False
        if tried is not None:
            bits = tried.bits
        for i in range(len(self.nodes)):
            place = &self.places[i]
            if panic_in_flight_of(place.node) >= self.panic_in_flight and (
                self.is_for_panic(place, now, bits, False) or self.is_for_panic(place, now, bits, True)
            ):
                return True
        return False

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

    cdef inline int choose(self, double now, const uint64_t *tried, bint is_first) noexcept nogil:
        """Position of the node picked, or -1.

        Args:
            tried: what is left out, or NULL.
            is_first: nothing has failed yet: a half-open node gets its trial before anything else.
        """
        cdef int position = self.choose_one(now, tried, is_first)
        return position if position != LOST else self.choose_without(now, tried)

    cdef int choose_without(self, double now, const uint64_t *tried) noexcept nogil:
        """As ``choose``, for one who has just lost the race for a place: go on without that node."""
        cdef uint64_t without[TRIED_WORDS]
        cdef int position
        memset(without, 0, sizeof(without))
        if tried != NULL:
            memcpy(without, tried, sizeof(without))
        for _ in range(self.tier_ends[self.tier_count - 1]):
            without[self.picked_position >> 6] |= <uint64_t>1 << (self.picked_position & 63)
            position = self.choose_one(now, without, False)
            if position != LOST:
                return position
        return -1

    cdef int choose_one(self, double now, const uint64_t *tried, bint is_first) noexcept nogil:
        cdef int tier, index, other, end, trial
        cdef int first = 0
        cdef int later_trial = -1
        cdef bint any_usable = False
        for tier in range(self.tier_count):
            end = self.tier_ends[tier]
            index = self.choose_in_tier(first, end, now, tried, is_first, False, &trial, &any_usable)
            if trial >= 0 and later_trial < 0:
                if is_first:
                    return self.take(trial, TRIAL, now)
                later_trial = trial
            if index >= 0:
                if is_first and not self.admits(index, now):
                    other = self.choose_beside(index, now, tried)
                    if other >= 0:
                        index = other
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
            index = self.choose_in_tier(first, end, now, tried, is_first, True, &trial, &any_usable)
            if index >= 0:
                return self.take(index, PANIC, now)
            first = end
        return -1

    cdef int choose_in_tier(
        self,
        int first,
        int end,
        double now,
        const uint64_t *tried,
        bint is_first,
        bint forced,
        int *trial,
        bint *any_usable,
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
        if tried == NULL:
            i = self.next_if_plain(first, end)
            if i >= 0:
                any_usable[0] = True
                return i
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
                if self.worker:
                    self.begin_later(first, end)
        if trial[0] >= 0 and is_first:
            return -1
        has_weight = open_count[1] > 0
        if open_count[has_weight] <= 1:
            return last_open[has_weight]  # no choice: nobody gains, nobody pays
        # Nodes of weight 0 stand in only for those of their tier that are out: then they are the set.
        return self.richest(first, end, has_weight, left_out[1] == 0 and (has_weight or left_out[0] == 0))

    cdef bint admits(self, int index, double now) noexcept nogil:
        """May this place keep its turn? Always, unless its share still grows after an outage."""
        cdef place_t *place = &self.places[index]
        cdef node_t *c = place.node
        cdef double began = load_f64(&c.ramp_from)
        cdef double passed
        cdef int32_t share
        if began == 0.0:
            return True
        passed = now - began
        if passed >= self.slow_start_s:
            swap_f64(&c.ramp_from, began, 0.0)
            return True
        share = FIRST_SHARE
        if passed > 0.0:
            share += <int32_t>((WHOLE_SHARE - FIRST_SHARE) * (passed / self.slow_start_s))
        if place.ramp != began:
            place.ramp = began
            place.admission = WHOLE_SHARE - share  # the first turn is its own
        place.admission += share
        if place.admission < WHOLE_SHARE:
            return False
        place.admission -= WHOLE_SHARE
        return True

    cdef int choose_beside(self, int index, double now, const uint64_t *tried) noexcept nogil:
        """An open place to take the turn of one that does not keep it, or -1."""
        cdef uint64_t without[TRIED_WORDS]
        cdef bint has_weight = self.places[index].weight > 0
        cdef bint any_usable = False
        cdef int first = 0
        cdef int position = self.places[index].position
        cdef int tier, end, trial, other
        memset(without, 0, sizeof(without))
        if tried != NULL:
            memcpy(without, tried, sizeof(without))
        for tier in range(self.tier_count):
            end = self.tier_ends[tier]
            while True:
                without[position >> 6] |= <uint64_t>1 << (position & 63)
                other = self.choose_in_tier(first, end, now, without, False, False, &trial, &any_usable)
                if other < 0:
                    break
                if (self.places[other].weight > 0 or not has_weight) and self.admits(other, now):
                    return other
                position = self.places[other].position
            first = end
        return -1

    cdef inline int next_if_plain(self, int first, int end) noexcept nogil:
        """``richest`` of a tier of which every node can be picked, as it could when the schedule began.

        That is nearly every pick: one pass, which is undone when it meets a node that cannot; -1 then.
        One of weight 0 gains nothing if another has weight.
        """
        cdef place_t *start = &self.places[first]
        cdef place_t *stop = &self.places[end]
        cdef place_t *place = start
        cdef place_t *best = start
        cdef int64_t total = 0
        while place < stop:
            if not place.is_member or not is_in_order(place.node):
                while place > start:
                    place -= 1
                    place.credit -= place.share
                return -1
            place.credit += place.share
            total += place.share
            if place.credit > best.credit:
                best = place
            place += 1
        best.credit -= total
        return <int>(best - self.places)

    @cython.cdivision(True)
    cdef void begin_later(self, int first, int end) noexcept nogil:
        """Run the new schedule of this tier ahead by this worker's part of its cycle.

        Of a long cycle only some turns are run: that too keeps the workers apart, and costs no more
        than some 100 µs when the set of nodes changes.
        """
        cdef place_t *place
        cdef place_t *best
        cdef int64_t gain
        cdef int64_t total = 0
        cdef int64_t divisor = 0
        cdef int64_t turns
        cdef int members = 0
        cdef bint has_weight = False
        cdef int i
        for i in range(first, end):
            if self.places[i].is_member and self.places[i].weight > 0:
                has_weight = True
        for i in range(first, end):
            place = &self.places[i]
            if place.is_member and (place.weight > 0 or not has_weight):
                gain = place.weight if has_weight else 1
                total += gain
                divisor = greatest_divisor(gain, divisor)
                members += 1
        turns = min(total // divisor * self.worker // self.workers, MOST_TURNS // members)
        while turns > 0:
            best = NULL
            for i in range(first, end):
                place = &self.places[i]
                if place.is_member and (place.weight > 0 or not has_weight):
                    place.credit += place.weight if has_weight else 1
                    if best == NULL or place.credit > best.credit:
                        best = place
            best.credit -= total
            turns -= 1

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
        cdef int i, tier, first, under_way
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
                    if not self.is_for_panic(place, now, tried, takes_cooling):
                        continue
                    under_way = panic_in_flight_of(c)
                    if under_way >= self.panic_in_flight:
                        continue
                    # One of weight 0 only if there is no other; then the one with the fewest.
                    rank = <int64_t>under_way + (0 if place.weight else self.panic_in_flight)
                    if best < 0 or rank < best_rank:
                        best = i
                        best_rank = rank
                if best >= 0:
                    return best
                first = self.tier_ends[tier]
        return -1

    cdef bint is_for_panic(
        self, place_t *place, double now, const uint64_t *tried, bint takes_cooling
    ) noexcept nogil:
        """May a node that is out be tried nevertheless, but for how many try it already?"""
        cdef const node_t *c = place.node
        cdef int standing = standing_of(c, now, self.trials)
        # A dead one waits for its trial; an open one is left out for another reason. One whose
        # trial did not come to ask for the key is no more than ejected.
        cdef double dead_until = load_f64(&c.dead_until)
        if standing < ON_TRIAL or now < dead_until:
            return False
        if standing == ON_TRIAL and dead_until != 0.0:
            return False
        if (standing == COOLING) != takes_cooling:
            return False
        if tried != NULL and (tried[place.position >> 6] >> (place.position & 63) & 1):
            return False
        return not is_full(c) and now >= load_f64(&c.panic_after)

    cdef int take(self, int index, int kind, double now) noexcept nogil:
        """Enter the pick in the node's record and in ``picked_*``; returns its position, or LOST."""
        cdef place_t *place = &self.places[index]
        cdef node_t *c = place.node
        cdef bint is_shared = c.workers > 1
        cdef double lease = 0.0
        self.picked_kind = kind
        self.picked_position = place.position
        if kind == TRIAL:
            lease = now + self.trial_lease_s
            if is_shared:
                lease = sign_f64(lease, place.worker)
            if not claim_trial(c, now, lease, self.trials):
                return LOST
        self.picked_lease = lease
        if is_shared and (kind == PANIC or load_i32(&c.max_in_flight) > 0):
            if not self.take_limited(place, kind):
                if kind == TRIAL:
                    return_trial(c, lease)
                return LOST
        else:
            count_pick(place.part, kind)
        return place.position

    cdef bint take_limited(self, place_t *place, int kind) noexcept nogil:
        """Take one of the places that workers compete for; false if the last one is gone."""
        cdef node_t *c = place.node
        cdef bint entered = enter_record(c, place.worker)
        cdef bint is_free = not is_full(c)
        if kind == PANIC and not self.panics_for_all and panic_in_flight_of(c) >= self.panic_in_flight:
            is_free = False
        if is_free:
            count_pick(place.part, kind)
        leave_record(c, place.worker, entered)
        return is_free


@cython.cdivision(True)
cdef inline int64_t greatest_divisor(int64_t a, int64_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a
