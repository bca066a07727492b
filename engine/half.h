/* float16 and bfloat16 without instructions for them: equal to vcvtph2ps and vcvtps2ph (to nearest even) on all bits,
 * the payloads of NaN apart. */
#ifndef EDGEKIT_HALF_H
#define EDGEKIT_HALF_H

#include "strict.h"

#include "bytes.h"

static inline float ek_of_half(uint16_t half) {
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t bits = ek_bits(ek_float(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000u) bits |= 0x7f800000u; /* infinite or not a number */
    return ek_float(bits | (uint32_t)(half & 0x8000) << 16);
}

static inline uint16_t ek_to_half(float value) {
    uint32_t bits = ek_bits(value), magnitude = bits & 0x7fffffffu, half;
    if (magnitude > 0x7f800000u)
        half = 0x7e00;
    else if (magnitude >= 0x477ff000u) /* 65520 and more round to infinity */
        half = 0x7c00;
    else if (magnitude < 0x38800000u) /* subnormal: adding 0.5 rounds to multiples of 2^-24 */
        half = ek_bits(ek_float(magnitude) + 0.5f) - 0x3f000000u;
    else
        half = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
    return (uint16_t)(half | (bits >> 16 & 0x8000));
}

static inline float ek_of_bfloat(uint16_t bits) { return ek_float((uint32_t)bits << 16); }

#endif
