/* exp in binary64, in a header: loops are compiled for several instruction sets. */
#ifndef EDGEKIT_SAMPLER_EXP_H
#define EDGEKIT_SAMPLER_EXP_H

#include "strict.h"

#include <stdint.h>

#define EK_LN2_HIGH 0x1.62e42fefa0000p-1 /* 33 bits: times an exponent it is exact */
#define EK_LN2_LOW 0x1.cf79abc9e3b3ap-40
#define EK_LOG2_E 0x1.71547652b82fep+0
#define EK_ROUNDING 0x1.8p52 /* adding it rounds to a whole number, which the low bits then hold */

static inline uint64_t ek_bits64(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double ek_of_bits64(uint64_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* exp(x) = result x 2^*k, with the result in 0.7 ... 1.42. Taylor's series for |r| <= ln(2) / 2: its first term left
 * out is below 2^-57. The rounding error of the reduction is added back. */
static inline double ek_exp_parts(double x, uint64_t *k) {
    double rounded = x * EK_LOG2_E + EK_ROUNDING;
    double n = rounded - EK_ROUNDING;
    double high = x - n * EK_LN2_HIGH, low = n * EK_LN2_LOW;
    double r = high - low, error = (high - r) - low;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    *k = ek_bits64(rounded) - ek_bits64(EK_ROUNDING);
    return 1.0 + (r + (error + r * r * p));
}

/* exp(x) for -708 <= x <= 0, where no result is subnormal. */
static inline double ek_exp_normal(double x) {
    uint64_t k;
    double p = ek_exp_parts(x, &k);
    return p * ek_of_bits64((k + 1023) << 52);
}

#endif
