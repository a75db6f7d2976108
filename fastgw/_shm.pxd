"""The C face of memory that worker processes share: atomic words, locks that name their holder, blocks."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef extern from *:
    """
    #ifndef FASTGW_ATOMIC_WORDS
    #define FASTGW_ATOMIC_WORDS
    #include <sched.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>

    #define FASTGW_WORD(type, name)                                                  \\
        static inline type load_##name(const type *p) {                              \\
            return __atomic_load_n(p, __ATOMIC_RELAXED);                             \\
        }                                                                            \\
        static inline type load_acquire_##name(const type *p) {                      \\
            return __atomic_load_n(p, __ATOMIC_ACQUIRE);                             \\
        }                                                                            \\
        static inline void store_##name(type *p, type v) {                           \\
            __atomic_store_n(p, v, __ATOMIC_RELAXED);                                \\
        }                                                                            \\
        static inline type add_##name(type *p, type v) {                             \\
            return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL);                       \\
        }                                                                            \\
        static inline void count_##name(type *p, type v) {                           \\
            store_##name(p, load_##name(p) + v);                                     \\
        }                                                                            \\
        static inline int swap_##name(type *p, type from, type to) {                 \\
            return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_ACQ_REL,    \\
                                               __ATOMIC_ACQUIRE);                    \\
        }
    FASTGW_WORD(int32_t, i32)
    FASTGW_WORD(int64_t, i64)

    static inline void store_release_i32(int32_t *p, int32_t v) {
        __atomic_store_n(p, v, __ATOMIC_RELEASE);
    }

    /* A double is the eight bytes of an integer: GCC moves them as one, through a register. */
    static inline double load_f64(const double *p) {
        int64_t bits = __atomic_load_n((const int64_t *)(const void *)p, __ATOMIC_RELAXED);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    static inline void store_f64(double *p, double value) {
        int64_t bits;
        memcpy(&bits, &value, sizeof bits);
        __atomic_store_n((int64_t *)(void *)p, bits, __ATOMIC_RELAXED);
    }
    static inline int swap_f64(double *p, double from, double to) {
        int64_t old_bits, new_bits;
        memcpy(&old_bits, &from, sizeof old_bits);
        memcpy(&new_bits, &to, sizeof new_bits);
        return swap_i64((int64_t *)(void *)p, old_bits, new_bits);
    }

    /* The lowest six bits of a time: some nanoseconds, in which a process signs. */
    static inline double sign_f64(double value, int signer) {
        int64_t bits;
        memcpy(&bits, &value, sizeof bits);
        bits = (bits & ~(int64_t)63) | (signer & 63);
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    static inline int signer_f64(double value) {
        int64_t bits;
        memcpy(&bits, &value, sizeof bits);
        return (int)(bits & 63);
    }

    static inline int64_t fastgw_clock_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static inline void fastgw_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    /* The clock decides only when to stop waiting, never what is true. */
    static inline int acquire_slowly(int32_t *word, int32_t name, int64_t patience_ns) {
        const struct timespec nap = {0, 50000};
        int64_t begun = 0;
        int round, turn;
        for (round = 0;; round++) {
            for (turn = 0; turn < 64; turn++) {
                if (load_i32(word) == 0 && swap_i32(word, 0, name)) return 1;
                fastgw_pause();
            }
            if (round == 0) begun = fastgw_clock_ns();
            else if (fastgw_clock_ns() - begun >= patience_ns) return 0;
            if (round < 100) sched_yield();
            else nanosleep(&nap, NULL);
        }
    }
    static inline int acquire(int32_t *word, int32_t name, int64_t patience_ns) {
        return swap_i32(word, 0, name) || acquire_slowly(word, name, patience_ns);
    }
    static inline void surrender(int32_t *word, int32_t name) {
        __atomic_compare_exchange_n(word, &name, 0, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    }
    #endif
    """
    # Relaxed: a word by itself, whole, at no cost over a plain one.
    int32_t load_i32(const int32_t *word) noexcept nogil
    int64_t load_i64(const int64_t *word) noexcept nogil
    double load_f64(const double *word) noexcept nogil
    void store_i32(int32_t *word, int32_t value) noexcept nogil
    void store_i64(int64_t *word, int64_t value) noexcept nogil
    void store_f64(double *word, double value) noexcept nogil
    # Add where several write; returns the sum. Who reads it also sees what was stored before it.
    int32_t add_i32(int32_t *word, int32_t amount) noexcept nogil
    int64_t add_i64(int64_t *word, int64_t amount) noexcept nogil
    # Add where only this process writes: readers see it whole, and it costs no bus lock.
    void count_i32(int32_t *word, int32_t amount) noexcept nogil
    void count_i64(int64_t *word, int64_t amount) noexcept nogil
    # Who reads this value also sees what was stored before it.
    int32_t load_acquire_i32(const int32_t *word) noexcept nogil
    int64_t load_acquire_i64(const int64_t *word) noexcept nogil
    void store_release_i32(int32_t *word, int32_t value) noexcept nogil
    # Compare and swap; false if the word was another.
    bint swap_i32(int32_t *word, int32_t old, int32_t new) noexcept nogil
    bint swap_i64(int64_t *word, int64_t old, int64_t new) noexcept nogil
    bint swap_f64(double *word, double old, double new) noexcept nogil
    # A time that names who wrote it, 0 to 63.
    double sign_f64(double value, int signer) noexcept nogil
    int signer_f64(double value) noexcept nogil
    # Locks: a word that is 0 or the name of its holder. False: not had within the patience.
    bint acquire(int32_t *word, int32_t name, int64_t patience_ns) noexcept nogil
    void surrender(int32_t *word, int32_t name) noexcept nogil


cdef enum:
    MAX_WORKERS = 64  # their names in locks are worker + 1; in times, worker


# At the start of every block.
ctypedef struct header_t:
    int32_t lock  # of what is registered in the block
    int32_t used  # how many slots were ever handed out: the rest is untouched
    int64_t shape  # capacity and workers it was first laid out for


@cython.no_gc  # nothing in it can refer to it, and the memory must outlive those who use it
cdef class Block:
    cdef readonly int capacity
    cdef readonly int worker
    cdef readonly int workers
    cdef header_t *header
    cdef bint is_borrowed
    cdef Py_buffer view

    cdef char *lay_out(self, memory, Py_ssize_t size, int capacity, int worker, int workers) except NULL
    cdef int check(self, int worker) except -1
    cdef bint enter(self) except -1
    cdef void leave(self) noexcept


@cython.no_gc
cdef class SlotTable(Block):
    cdef uint64_t *digests  # two words per slot; zero: vacant
    cdef int32_t *references  # by worker, then by slot
    cdef set numbers  # of the slots taken without a key

    cdef char *lay_out_slots(self, memory, Py_ssize_t size, int capacity, int worker, int workers) except NULL
    cdef int take(self, key) except -1
    cdef int slot_of(self, const uint64_t *digest) except -1
    cdef void give_back(self, int slot) noexcept
    cdef void wipe(self, int slot) noexcept
    cdef int users(self, int slot) noexcept
    cdef int references_of(self, int worker, int slot) noexcept
    cdef void bury(self, int worker) noexcept


cdef Py_ssize_t rounded(Py_ssize_t size) noexcept
cdef Py_ssize_t slots_size(Py_ssize_t capacity, Py_ssize_t workers) noexcept


# One series of a family, as all processes see it. Written once, before it is counted in ``header.used``.
ctypedef struct series_t:
    int32_t kind
    int32_t cell  # the first of its own in each worker's region
    int32_t cells
    int32_t text  # where its name and label values are: each but the last ends with a zero byte
    int32_t text_bytes
    int32_t bound  # the first of its bucket bounds
    int32_t bounds


@cython.final
@cython.no_gc
cdef class Metrics(Block):
    cdef series_t *series
    cdef double *bounds
    cdef char *text
    cdef char *regions  # one of cells per worker
    cdef int64_t *own  # this worker's
    cdef int known  # how many series are in ``slots``
    cdef dict slots  # by name and label values
    cdef dict families  # kind, number of labels, buckets; by name

    # Registering
    cdef int append(self, tuple key, tuple family) except -1
    cdef int place_of(self, tuple bounds, int used) except -1
    cdef tuple bounds_of(self, int slot)
    cdef int take_notice(self) except -1
    # Counting
    cpdef void add(self, int slot, long long amount=*) noexcept
    cpdef void set(self, int slot, long long value) noexcept
    cpdef void observe(self, int slot, double value) noexcept
    # Reading
    cdef int64_t *region_of(self, int worker) noexcept
    cdef long long total(self, int cell) noexcept
