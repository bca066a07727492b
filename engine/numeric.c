/* Square root, logarithm, exponential, sine and cosine: only + - * /, in this order, so the bits are the same everywhere.
 * The last four work in binary64 and are rounded to binary32 once. */
#include "numeric.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* A root of 25 or 26 bits and a bit for the rest, which one conversion rounds. */
float ek_soft_sqrt(float x) {
    if (!(x > 0) || ek_bits(x) >= 0x7f800000u) return x;
    int32_t exponent = -150;
    if (x < 0x1p-126f) {
        x *= 0x1p24f;
        exponent -= 24;
    }
    uint64_t mantissa = (ek_bits(x) & 0x7fffffu) | 0x800000u, root = 0;
    exponent += (int32_t)(ek_bits(x) >> 23);
    if (exponent & 1) {
        mantissa <<= 1;
        exponent--;
    }
    mantissa <<= 26;
    for (uint64_t bit = (uint64_t)1 << 25; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= mantissa) root += bit;
    uint32_t sticky = (uint32_t)(root * 2) | (root * root != mantissa);
    return (float)sticky * ek_float((uint32_t)((exponent - 26) / 2 - 1 + 127) << 23);
}

float ek_sqrt(float x) {
#if defined(__SSE2__)
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#elif defined(__aarch64__)
    float root;
    __asm__("fsqrt %s0, %s1" : "=w"(root) : "w"(x));
    return root;
#else
    return ek_soft_sqrt(x);
#endif
}

#define MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to a whole number */
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10

/* x is a normal binary32 above 0. m is in [0.707, 1.414]; ln m = 2 artanh((m - 1) / (m + 1)). */
static double natural_log(double x) {
    uint64_t bits = ek_double_bits(x);
    int64_t k = (int64_t)(bits >> 52) - 1023;
    double m = ek_double((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    double z = (m - 1.0) / (m + 1.0), square = z * z, sum = 0;
    for (int i = 23; i >= 1; i -= 2) sum = sum * square + 1.0 / i;
    return (double)k * LN2_HIGH + ((double)k * LN2_LOW + 2.0 * (z * sum));
}

/* |x| < 700. */
static double exponential(double x) {
    double t = x * 1.4426950408889634 + MAGIC, k = t - MAGIC;
    double r = (x - k * LN2_HIGH) - k * LN2_LOW, sum = 1;
    for (int i = 14; i >= 1; i--) sum = 1.0 + sum * r / i;
    return sum * ek_double((uint64_t)(1023 + (int64_t)k) << 52);
}

void ek_frequencies(float theta, uint32_t count, float *out) {
    double log = natural_log((double)theta);
    for (uint32_t i = 0; i < count; i++) {
        float exponent = (float)(2 * i) / (float)(2 * count);
        out[i] = 1.0f / (float)exponential((double)exponent * log);
    }
}

/* r = angle - k pi/2 with pi/2 in three parts of 33 bits, then Taylor's series on [-pi/4, pi/4]. */
void ek_cos_sin(float angle, float *cosine, float *sine) {
    double x = (double)angle, t = x * 0.63661977236758134308 + MAGIC, k = t - MAGIC;
    double r = ((x - k * 1.57079632673412561417e+00) - k * 6.07710050630396597660e-11) - k * 2.02226624871116645580e-21;
    double square = r * r, c = 1, s = 1;
    for (int i = 18; i >= 2; i -= 2) c = 1.0 - c * square / (i * (i - 1));
    for (int i = 19; i >= 3; i -= 2) s = 1.0 - s * square / (i * (i - 1));
    s *= r;
    uint32_t quadrant = (uint32_t)ek_double_bits(t) & 3;
    double both[4] = {c, -s, -c, s}; /* cos(r + quadrant pi/2) */
    *cosine = (float)both[quadrant];
    *sine = (float)both[(quadrant + 3) & 3];
}
