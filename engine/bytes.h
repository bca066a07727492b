/* Little-endian numbers at any address, and the bits of floats. */
#ifndef EDGEKIT_BYTES_H
#define EDGEKIT_BYTES_H

#include "internal.h"

static inline uint16_t ek_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static inline uint32_t ek_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t ek_u64(const uint8_t *p) { return ek_u32(p) | (uint64_t)ek_u32(p + 4) << 32; }

/* Four bytes as they lie in memory. */
static inline uint32_t ek_native32(const uint8_t *p) {
    union { uint8_t bytes[4]; uint32_t u; } pun = {{p[0], p[1], p[2], p[3]}};
    return pun.u;
}

static inline uint32_t ek_bits(float value) {
    union { float f; uint32_t u; } pun = {value};
    return pun.u;
}

static inline float ek_float(uint32_t bits) {
    union { uint32_t u; float f; } pun = {bits};
    return pun.f;
}

static inline double ek_double(uint64_t bits) {
    union { uint64_t u; double d; } pun = {bits};
    return pun.d;
}

static inline uint64_t ek_double_bits(double value) {
    union { double d; uint64_t u; } pun = {value};
    return pun.u;
}

static inline float ek_f32(const uint8_t *p) { return ek_float(ek_u32(p)); }

static inline int ek_same(ek_text text, const char *other) {
    size_t i = 0;
    while (i < text.length && other[i] && text.bytes[i] == other[i]) i++;
    return i == text.length && !other[i];
}

/* Multiplication and addition that stay at the largest number instead of wrapping. */
static inline uint64_t ek_times(uint64_t a, uint64_t b) { return b && a > UINT64_MAX / b ? UINT64_MAX : a * b; }
static inline uint64_t ek_plus(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

#endif
