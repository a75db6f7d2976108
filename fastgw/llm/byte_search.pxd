"""The C of byte_search.py. SSE2 is part of every x86-64; elsewhere the compiler does what it can."""

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if defined(__SSE2__) && !defined(FASTGW_NO_SSE2)
    #include <emmintrin.h>

    typedef __m128i fastgw_block;  /* 16 bytes; or of a comparison: 0xFF where it is true */

    static inline fastgw_block fastgw_load(const unsigned char *p) {
        return _mm_loadu_si128((const __m128i *)p);
    }

    static inline fastgw_block fastgw_are(fastgw_block block, char c) {
        return _mm_cmpeq_epi8(block, _mm_set1_epi8(c));
    }

    static inline unsigned fastgw_bits(fastgw_block found) {
        return (unsigned)_mm_movemask_epi8(found);
    }
    #else
    typedef unsigned char fastgw_block __attribute__((vector_size(16)));

    static inline fastgw_block fastgw_load(const unsigned char *p) {
        fastgw_block block;
        memcpy(&block, p, 16);
        return block;
    }

    static inline fastgw_block fastgw_are(fastgw_block block, char c) {
        return (fastgw_block)(block == (unsigned char)c);
    }

    static inline unsigned fastgw_bits(fastgw_block found) {
        unsigned bits = 0;
        for (int k = 0; k < 16; k++) bits |= (unsigned)(found[k] & 1) << k;
        return bits;
    }
    #endif

    static inline uint64_t fastgw_are_16(const unsigned char *p, char c) {
        return fastgw_bits(fastgw_are(fastgw_load(p), c));
    }

    static inline uint64_t fastgw_brackets_16(const unsigned char *p) {
        fastgw_block block = fastgw_load(p);
        fastgw_block square = fastgw_are(block, '[') | fastgw_are(block, ']');
        return fastgw_bits(square | fastgw_are(block, '{') | fastgw_are(block, '}'));
    }

    /* The 64 bytes at p + i; what lies behind the end is zero, from a copy. */
    static inline const unsigned char *fastgw_padded(
        const unsigned char *p, Py_ssize_t i, Py_ssize_t end, unsigned char copy[64]) {
        if (end - i >= 64) return p + i;
        memset(copy, 0, 64);
        memcpy(copy, p + i, (size_t)(end - i));
        return copy;
    }

    static inline uint64_t fastgw_are_64(
        const unsigned char *p, Py_ssize_t i, Py_ssize_t end, char c) {
        unsigned char copy[64];
        const unsigned char *q = fastgw_padded(p, i, end, copy);
        return fastgw_are_16(q, c) | fastgw_are_16(q + 16, c) << 16
            | fastgw_are_16(q + 32, c) << 32 | fastgw_are_16(q + 48, c) << 48;
    }

    static inline uint64_t fastgw_brackets(const unsigned char *p, Py_ssize_t i, Py_ssize_t end) {
        unsigned char copy[64];
        const unsigned char *q = fastgw_padded(p, i, end, copy);
        return fastgw_brackets_16(q) | fastgw_brackets_16(q + 16) << 16
            | fastgw_brackets_16(q + 32) << 32 | fastgw_brackets_16(q + 48) << 48;
    }

    /* Most strings end within 16 bytes; the C library is better at the others. */
    static inline Py_ssize_t fastgw_find(
        const unsigned char *p, unsigned char c, Py_ssize_t i, Py_ssize_t end) {
        const unsigned char *far;
        if (end - i >= 16) {
            unsigned found = fastgw_bits(fastgw_are(fastgw_load(p + i), (char)c));
            if (found) return i + __builtin_ctz(found);
            i += 16;
        }
        far = (const unsigned char *)memchr(p + i, c, (size_t)(end - i));
        return far ? far - p : -1;
    }

    #define fastgw_quotes(p, i, end) fastgw_are_64(p, i, end, '"')
    #define fastgw_backslashes(p, i, end) fastgw_are_64(p, i, end, '\\\\')
    #define fastgw_lowest(found) __builtin_ctzll(found)
    #define fastgw_is_word(p, i, word, size) (memcmp((p) + (i), word, (size_t)(size)) == 0)
    """
    unsigned long long quotes "fastgw_quotes" (
        const unsigned char *p, Py_ssize_t i, Py_ssize_t end
    ) noexcept
    unsigned long long backslashes "fastgw_backslashes" (
        const unsigned char *p, Py_ssize_t i, Py_ssize_t end
    ) noexcept
    unsigned long long brackets "fastgw_brackets" (
        const unsigned char *p, Py_ssize_t i, Py_ssize_t end
    ) noexcept
    int lowest "fastgw_lowest" (unsigned long long found) noexcept
    Py_ssize_t find "fastgw_find" (
        const unsigned char *p, unsigned char byte, Py_ssize_t i, Py_ssize_t end
    ) noexcept
    bint is_word "fastgw_is_word" (
        const unsigned char *p, Py_ssize_t i, const unsigned char *word, Py_ssize_t size
    ) noexcept
