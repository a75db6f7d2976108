"""Memory that worker processes share: blocks laid out alike in each of them, slots by key, metrics.

The memory is made before the processes are forked (``mmap.mmap(-1, size)``); zeroed, it is empty.
A process may be killed at any instruction. So nothing in here is true only if two words agree: what
one worker counts lies in words that this worker alone writes, what several change is a single word,
and what is built up in steps is published by the last of them. A lock keeps the living apart; it
names its holder, so that ``recover`` can free it when the holder has died.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy, memset

from enum import IntEnum
from hashlib import blake2b
from math import isfinite


class MetricKind(IntEnum):
    """How a series is counted, and what becomes of a dead worker's part in it."""

    COUNTER = 0  # stays
    GAUGE = 1  # goes: what a process holds ends with it
    HISTOGRAM = 2  # stays


cdef enum:  # the same as C integers
    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2

cdef enum:
    ALIGNMENT = 64  # of each part of a block: a cache line, which no two workers write to
    CELLS_PER_SERIES = 8  # on average; a histogram has two more than bounds
    TEXT_PER_SERIES = 160  # bytes, on average
    MAX_BOUNDS = 64
    MOST_SERIES = 1 << 20

cdef int64_t PATIENCE_NS = 2_000_000_000  # with a registry; it is asked only when a configuration is loaded


cdef Py_ssize_t rounded(Py_ssize_t size) noexcept:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


# --- Blocks ------------------------------------------------------------------------------------


@cython.no_gc
cdef class Block:
    """A piece of memory, its own or a caller's, that up to 64 workers lay out alike."""

    def __dealloc__(self):
        if self.is_borrowed:
            PyBuffer_Release(&self.view)
        else:
            PyMem_Free(self.header)

    cdef char *lay_out(self, memory, Py_ssize_t size, int capacity, int worker, int workers) except NULL:
        """Take the memory; returns where the part after the header begins.

        Raises:
            ValueError: a number is out of range, the memory too small, not aligned or laid out otherwise.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 1 to {MAX_WORKERS}, not {workers}")
        if not 0 <= worker < workers:
            raise ValueError(f"worker must be 0 to {workers - 1}, not {worker}")
        cdef int64_t shape = <int64_t>capacity * 256 + workers
        self.capacity = capacity
        self.worker = worker
        self.workers = workers
        if memory is None:
            self.header = <header_t *>PyMem_Calloc(size, 1)
            if self.header == NULL:
                raise MemoryError
        else:
            PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
            self.is_borrowed = True
            if self.view.len < size:
                raise ValueError(f"room for {capacity} and {workers} workers needs {size} bytes of memory")
            if <size_t>self.view.buf % 8:
                raise ValueError("memory must be aligned to 8 bytes")
            self.header = <header_t *>self.view.buf
        if not swap_i64(&self.header.shape, 0, shape) and load_i64(&self.header.shape) != shape:
            there = load_i64(&self.header.shape)
            raise ValueError(f"the memory is laid out for {there >> 8} and {there & 255} workers")
        return <char *>self.header + rounded(sizeof(header_t))

    cdef int check(self, int worker) except -1:
        """Refuse a worker that there cannot be."""
        if not 0 <= worker < self.workers:
            raise ValueError(f"worker must be 0 to {self.workers - 1}, not {worker}")
        return 0

    cdef bint enter(self) except -1:
        """Lock what is registered. TimeoutError if its holder is dead and was not recovered."""
        if not acquire(&self.header.lock, self.worker + 1, PATIENCE_NS):
            holder = load_i32(&self.header.lock) - 1
            raise TimeoutError(f"worker {holder} does not let go of the shared memory")
        return True

    cdef void leave(self) noexcept:
        surrender(&self.header.lock, self.worker + 1)


# --- Slots by key ------------------------------------------------------------------------------


cdef inline Py_ssize_t row_size(Py_ssize_t capacity) noexcept:
    return rounded(capacity * <Py_ssize_t>sizeof(int32_t))


cdef Py_ssize_t slots_size(Py_ssize_t capacity, Py_ssize_t workers) noexcept:
    """Bytes that a SlotTable needs for itself, beside its records."""
    cdef Py_ssize_t digests = rounded(capacity * 2 * <Py_ssize_t>sizeof(uint64_t))
    return rounded(sizeof(header_t)) + digests + workers * row_size(capacity)


cdef inline int32_t *reference(SlotTable table, int worker, int slot) noexcept:
    cdef Py_ssize_t row = row_size(table.capacity) // <Py_ssize_t>sizeof(int32_t)
    return &table.references[worker * row + slot]


@cython.no_gc
cdef class SlotTable(Block):
    """Hands out slots: the same key gives every worker the same one, while any of them uses it.

    A slot that its last user gave back is vacant. One whose users have all died is kept for the same
    key until the room is needed: who comes back finds it as it was left.
    """

    cdef char *lay_out_slots(
        self, memory, Py_ssize_t size, int capacity, int worker, int workers
    ) except NULL:
        """As ``lay_out``, of ``slots_size`` and ``size`` more; returns where these begin."""
        self.numbers = set()
        cdef Py_ssize_t own = slots_size(capacity, workers)
        cdef char *start = self.lay_out(memory, own + size, capacity, worker, workers)
        self.digests = <uint64_t *>start
        self.references = <int32_t *>(start + rounded(capacity * 2 * <Py_ssize_t>sizeof(uint64_t)))
        return <char *>self.header + own

    def __len__(self):
        """How many slots somebody uses."""
        cdef int slot
        cdef int count = 0
        for slot in range(load_i32(&self.header.used)):
            count += self.users(slot) > 0
        return count

    cdef int references_of(self, int worker, int slot) noexcept:
        return load_i32(reference(self, worker, slot))

    cdef int users(self, int slot) noexcept:
        """How many references there are to a slot, of all workers."""
        cdef int worker
        cdef int count = 0
        for worker in range(self.workers):
            count += load_i32(reference(self, worker, slot))
        return count

    cdef void wipe(self, int slot) noexcept:
        """Make a slot's record empty, before it is handed out for a new key. Nobody uses it."""

    cdef int take(self, key) except -1:
        """The slot of this key; without one, of the lowest number that this worker has free."""
        cdef uint64_t digest[2]
        cdef int number = 0
        cdef int slot
        cdef bytes hashed
        if key is None:
            # Workers that take slots in the same order get the same ones.
            while number in self.numbers:
                number += 1
            digest[0] = number + 1
            digest[1] = 0
        else:
            text = (<str?>key).encode("utf-8", "surrogatepass")
            hashed = blake2b(text, digest_size=sizeof(digest)).digest()
            memcpy(digest, <const char *>hashed, sizeof(digest))
        self.enter()
        try:
            slot = self.slot_of(digest)
            count_i32(reference(self, self.worker, slot), 1)
        finally:
            self.leave()
        if key is None:
            self.numbers.add(number)
        return slot

    cdef int slot_of(self, const uint64_t *digest) except -1:
        """The slot with this digest, or one that is wiped and given it."""
        cdef int used = load_i32(&self.header.used)
        cdef int vacant = -1
        cdef int slot
        cdef uint64_t *place
        for slot in range(used):
            place = &self.digests[2 * slot]
            if place[0] == digest[0] and place[1] == digest[1]:
                return slot
            if vacant < 0 and place[0] == 0 and place[1] == 0:
                vacant = slot
        if vacant < 0 and used < self.capacity:
            vacant = used
        if vacant < 0:
            for slot in range(used):
                if self.users(slot) == 0:
                    vacant = slot  # its users have died, and nobody has asked for it since
                    break
        if vacant < 0:
            raise ValueError(f"the table is full: {used} of {self.capacity} records are in use")
        place = &self.digests[2 * vacant]
        place[0] = place[1] = 0
        self.wipe(vacant)
        place[0] = digest[0]
        place[1] = digest[1]
        if vacant == used:
            store_i32(&self.header.used, used + 1)
        return vacant

    cdef void give_back(self, int slot) noexcept:
        """Drop one reference of this worker; the last of all makes the slot vacant."""
        cdef uint64_t *place = &self.digests[2 * slot]
        cdef bint entered = acquire(&self.header.lock, self.worker + 1, PATIENCE_NS)
        if place[1] == 0:
            self.numbers.discard(<int>place[0] - 1)
        count_i32(reference(self, self.worker, slot), -1)
        if entered:  # else it is as if this worker had died: the slot is kept for its key
            if self.users(slot) == 0:
                place[0] = place[1] = 0
            self.leave()

    cdef void bury(self, int worker) noexcept:
        """Drop the references of a dead worker, whose row nobody else writes, and its hold on the lock."""
        cdef int slot
        for slot in range(load_i32(&self.header.used)):
            store_i32(reference(self, worker, slot), 0)
        surrender(&self.header.lock, worker + 1)


# --- Metrics -----------------------------------------------------------------------------------


cdef inline Py_ssize_t room_for_bounds(Py_ssize_t capacity) noexcept:
    return capacity + MAX_BOUNDS  # histograms with the same buckets share them


cdef Py_ssize_t metrics_size(Py_ssize_t capacity, Py_ssize_t workers) noexcept:
    return (
        rounded(sizeof(header_t))
        + rounded(capacity * <Py_ssize_t>sizeof(series_t))
        + rounded(room_for_bounds(capacity) * <Py_ssize_t>sizeof(double))
        + rounded(capacity * TEXT_PER_SERIES)
        + workers * region_size(capacity)
    )


cdef inline Py_ssize_t region_size(Py_ssize_t capacity) noexcept:
    return rounded(capacity * CELLS_PER_SERIES * <Py_ssize_t>sizeof(int64_t))


@cython.final
@cython.no_gc
cdef class Metrics(Block):
    """Counters, gauges and histograms of all workers, by family and label values.

    Each worker counts in a region of its own, without a lock or an atomic addition; a reader sums
    the regions. A worker that is started in a dead one's place goes on counting there. A series
    that was registered stays, under the same number in all workers.

    Args:
        capacity: how many series, at least 1; with room for 8 cells (a histogram has two more than
            bounds) and 160 bytes of text per series, on average.
        memory: a writable, contiguous buffer of at least ``bytes_needed(capacity, workers)`` bytes;
            zeroed means empty. It stays exported for as long as this lives. None: its own.
        worker, workers: which one this is, of how many (at most 64).
    Raises:
        ValueError: a number is out of range, or the memory too small, not aligned to 8 bytes or
            laid out for other numbers.
    """

    def __cinit__(self, int capacity=4096, memory=None, *, int worker=0, int workers=1):
        cdef char *start
        self.slots = {}
        self.families = {}
        if capacity > MOST_SERIES:
            raise ValueError(f"capacity must be at most {MOST_SERIES}, not {capacity}")
        start = self.lay_out(memory, metrics_size(capacity, workers), capacity, worker, workers)
        self.series = <series_t *>start
        start += rounded(capacity * <Py_ssize_t>sizeof(series_t))
        self.bounds = <double *>start
        start += rounded(room_for_bounds(capacity) * <Py_ssize_t>sizeof(double))
        self.text = start
        start += rounded(capacity * TEXT_PER_SERIES)
        self.regions = start
        self.own = self.region_of(worker)

    @staticmethod
    def bytes_needed(int capacity, int workers=1):
        """Size of the memory for this many series and workers."""
        return metrics_size(capacity, workers)

    def __len__(self):
        """How many series are registered, by anybody."""
        return load_acquire_i32(&self.header.used)

    def __repr__(self):
        return f"<Metrics {len(self)} of {self.capacity} series, worker {self.worker} of {self.workers}>"

    # --- Registering, when a configuration is loaded ---

    def register(self, str name not None, kind, labels=(), buckets=()):
        """The number of a series, for ``add``, ``set`` and ``observe``: the same for the same labels.

        Args:
            name: of the family.
            kind: a MetricKind.
            labels: the label values, texts; always as many in one family.
            buckets: of a histogram, the upper bounds, rising; a value on a bound is within it.
        Raises:
            ValueError: a text has a zero byte, the buckets do not suit, the family is known with
                another kind, number of labels or buckets; or there is no room: then with the figures.
        """
        cdef tuple key = (name, tuple(labels))
        cdef tuple family = (MetricKind(kind), len(key[1]), tuple([float(bound) for bound in buckets]))
        _check_series(key, family)
        self.take_notice()
        if key not in self.slots:
            self.enter()
            try:
                self.take_notice()
                if key not in self.slots and self.families.get(name, family) == family:
                    self.append(key, family)
            finally:
                self.leave()
        if self.families[name] != family:
            there, labels, bounds = self.families[name]
            raise ValueError(
                f"the metric {name} is registered as a {there.name.lower()} with {labels} labels"
                f" and the buckets {bounds}"
            )
        return self.slots[key]

    cdef int append(self, tuple key, tuple family) except -1:
        """Write a series behind the others, and publish it. The block is locked."""
        cdef int used = load_i32(&self.header.used)
        cdef bytes text = "\0".join((key[0], *key[1])).encode()
        cdef tuple bounds = family[2]
        cdef series_t series
        cdef int i
        memset(&series, 0, sizeof(series))
        if used:
            # All follows from what was published: who died half-way has used up nothing.
            series = self.series[used - 1]
            series.cell += series.cells
            series.text += series.text_bytes
        series.kind = family[0]
        series.cells = len(bounds) + 2 if series.kind == HISTOGRAM else 1
        series.text_bytes = len(text)
        series.bounds = len(bounds)
        series.bound = self.place_of(bounds, used)
        for what, needed, room in (
            ("series", used + 1, self.capacity),
            ("cells", series.cell + series.cells, self.capacity * CELLS_PER_SERIES),
            ("bytes of text", series.text + series.text_bytes, self.capacity * TEXT_PER_SERIES),
            ("bounds", series.bound + series.bounds, room_for_bounds(self.capacity)),
        ):
            if needed > room:
                raise ValueError(
                    f"no room for the metric {key[0]} {key[1]}: {needed} {what} of at most {room}"
                )
        memcpy(self.text + series.text, <const char *>text, series.text_bytes)
        for i in range(series.bounds):
            self.bounds[series.bound + i] = bounds[i]
        self.series[used] = series
        store_release_i32(&self.header.used, used + 1)
        return self.take_notice()

    cdef int place_of(self, tuple bounds, int used) except -1:
        """Where these bounds are, or behind all others."""
        cdef int end = 0
        cdef int i
        for i in range(used):
            if self.series[i].bounds and self.bounds_of(i) == bounds:
                return self.series[i].bound
            end = max(end, self.series[i].bound + self.series[i].bounds)
        return end

    cdef tuple bounds_of(self, int slot):
        cdef int first = self.series[slot].bound
        cdef int i
        return tuple([self.bounds[i] for i in range(first, first + self.series[slot].bounds)])

    cdef int take_notice(self) except -1:
        """Read what others have registered."""
        cdef const series_t *series
        cdef bytes text
        cdef tuple key
        while self.known < load_acquire_i32(&self.header.used):
            series = &self.series[self.known]
            text = self.text[series.text : series.text + series.text_bytes]
            name, *labels = text.decode().split("\0")
            key = (name, tuple(labels))
            self.slots[key] = self.known
            self.families[name] = (MetricKind(series.kind), len(labels), self.bounds_of(self.known))
            self.known += 1
        return 0

    # --- Counting: a number that was not registered here counts nothing ---

    cpdef void add(self, int slot, long long amount=1) noexcept:
        """Add to a counter, or to this worker's part of a gauge."""
        cdef const series_t *series
        if 0 <= slot < self.known:
            series = &self.series[slot]
            if series.kind != HISTOGRAM:
                count_i64(&self.own[series.cell], amount)

    cpdef void set(self, int slot, long long value) noexcept:
        """Set this worker's part of a gauge."""
        cdef const series_t *series
        if 0 <= slot < self.known:
            series = &self.series[slot]
            if series.kind == GAUGE:
                store_i64(&self.own[series.cell], value)

    cpdef void observe(self, int slot, double value) noexcept:
        """Count a value in a histogram; one that is not a number counts nothing."""
        cdef const series_t *series
        cdef const double *bounds
        cdef double *sum
        cdef int64_t *cells
        cdef int bucket = 0
        cdef int above, middle
        if not 0 <= slot < self.known or value != value:
            return
        series = &self.series[slot]
        if series.kind != HISTOGRAM:
            return
        bounds = self.bounds + series.bound
        above = series.bounds
        while bucket < above:
            middle = (bucket + above) >> 1
            if value > bounds[middle]:
                bucket = middle + 1
            else:
                above = middle
        cells = self.own + series.cell
        count_i64(&cells[bucket], 1)
        sum = <double *>&cells[series.bounds + 1]
        store_f64(sum, load_f64(sum) + value)

    # --- Reading ---

    cdef inline int64_t *region_of(self, int worker) noexcept:
        return <int64_t *>(self.regions + worker * region_size(self.capacity))

    cdef long long total(self, int cell) noexcept:
        cdef int worker
        cdef long long total = 0
        for worker in range(self.workers):
            total += load_i64(&self.region_of(worker)[cell])
        return total

    def buckets(self, str name not None):
        """The upper bounds of a family; empty if it is no histogram. KeyError if it is not known."""
        self.take_notice()
        return self.families[name][2]

    def collect(self):
        """Every series, summed over the workers, in the order in which they were registered.

        Returns:
            A list of ``(name, kind, labels, value)``. The value of a histogram is ``(counts, sum)``,
            where each count is that of its bucket alone and the last one is of what is above all bounds.
        """
        cdef int slot, i, worker
        cdef const series_t *series
        cdef double sum
        self.take_notice()
        found = []
        for (name, labels), slot in self.slots.items():
            series = &self.series[slot]
            value = self.total(series.cell)
            if series.kind == HISTOGRAM:
                sum = 0.0
                for worker in range(self.workers):
                    sum += load_f64(<double *>&self.region_of(worker)[series.cell + series.bounds + 1])
                value = ([self.total(series.cell + i) for i in range(series.bounds + 1)], sum)
            found.append((name, MetricKind(series.kind), labels, value))
        return found

    # --- After a death ---

    def recover(self, int worker):
        """Clear up after a worker that is dead, before another one takes its place.

        What it has counted stays. What it held (gauges) is gone, and so is its hold on the lock.
        """
        cdef int slot
        cdef const series_t *series
        self.check(worker)
        for slot in range(load_acquire_i32(&self.header.used)):
            series = &self.series[slot]
            if series.kind == GAUGE:
                store_i64(&self.region_of(worker)[series.cell], 0)
        surrender(&self.header.lock, worker + 1)


def _check_series(tuple key, tuple family):
    name, labels = key
    kind, _, bounds = family
    for text in (name, *labels):
        if not isinstance(text, str):
            raise TypeError(f"a label value must be a text, not {text!r}")
        if "\0" in text:
            raise ValueError(f"a text with a zero byte: {text!r}")
    if not name:
        raise ValueError("a metric needs a name")
    if kind is not MetricKind.HISTOGRAM:
        if bounds:
            raise ValueError(f"a {kind.name.lower()} has no buckets")
        return
    if not 1 <= len(bounds) <= MAX_BOUNDS:
        raise ValueError(f"a histogram has 1 to {MAX_BOUNDS} buckets, not {len(bounds)}")
    if not all(isfinite(bound) for bound in bounds) or sorted(set(bounds)) != list(bounds):
        raise ValueError(f"buckets must be finite and rising: {bounds}")
