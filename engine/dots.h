/* Sums of products of whole numbers: exact, so any order gives the same. Cortex-M4 and later multiply two at once. */
#ifndef EDGEKIT_DOTS_H
#define EDGEKIT_DOTS_H

#include <stdint.h>

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(__ARM_NEON)
#include <arm_acle.h>

#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 4")
#endif

/* Four bytes at any address. */
static inline uint32_t ek_four(const void *bytes) {
    uint32_t word;
    __builtin_memcpy(&word, bytes, sizeof word);
    return word;
}

/* Of four bytes of q: numbers 0 and 2, and 1 and 3, as pairs of 16 bits. */
static inline int32_t ek_even(uint32_t q) { return __sxtb16(q); }
static inline int32_t ek_odd(uint32_t q) {
    int32_t odd; /* the intrinsic has no rotation */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(q));
    return odd;
}

static inline int32_t ek_dot_half(const int8_t *w, const int8_t *q) {
    int32_t sum = 0;
    UNROLLED
    for (int i = 0; i < 16; i += 4) {
        uint32_t four = ek_four(w + i), other = ek_four(q + i);
        sum = __smlad(ek_even(four), ek_even(other), sum);
        sum = __smlad(ek_odd(four), ek_odd(other), sum);
    }
    return sum;
}

static inline int32_t ek_dot_nibbles(const uint8_t *w, const int8_t *q) {
    const uint32_t nibbles = 0x000f000fu;
    int32_t sum = 0;
    UNROLLED
    for (int i = 0; i < 16; i += 4) {
        uint32_t four = ek_four(w + i), low = ek_four(q + i), high = ek_four(q + i + 16);
        sum = __smlad((int32_t)(four & nibbles), ek_even(low), sum);
        sum = __smlad((int32_t)(four >> 8 & nibbles), ek_odd(low), sum);
        sum = __smlad((int32_t)(four >> 4 & nibbles), ek_even(high), sum);
        sum = __smlad((int32_t)(four >> 12 & nibbles), ek_odd(high), sum);
    }
    return sum;
}

#undef UNROLLED
#else

/* GCC unrolls such loops before it could vectorize them well. */
#if defined(__GNUC__) && !defined(__clang__)
#define ROLLED _Pragma("GCC unroll 1")
#else
#define ROLLED
#endif

static inline int32_t ek_dot_half(const int8_t *w, const int8_t *q) {
    int32_t sum = 0;
    ROLLED
    for (int i = 0; i < 16; i++) sum += w[i] * q[i];
    return sum;
}

/* 16 bytes of nibbles: the low ones are w[0..15], the high ones w[16..31]. */
static inline int32_t ek_dot_nibbles(const uint8_t *w, const int8_t *q) {
    int32_t sum = 0;
    ROLLED
    for (int i = 0; i < 16; i++) sum += (w[i] & 15) * q[i] + (w[i] >> 4) * q[i + 16];
    return sum;
}

#undef ROLLED
#endif

static inline int32_t ek_dot_bytes(const int8_t *w, const int8_t *q) {
    return ek_dot_half(w, q) + ek_dot_half(w + 16, q + 16);
}

#endif
