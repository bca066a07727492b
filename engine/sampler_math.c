/* exp, log and powers for the sampler, in binary64.
 *
 * Only + - x / in the order written, each rounded once: the bits are the same on every processor. Errors are below 1 ulp
 * (measured: see tests/test_engine_sampler.py), but the last bit may differ from that of a C library or of numpy. */
#include "sampler.h"

#define LN2_HIGH 0x1.62e42fefa0000p-1 /* 33 bits: times an exponent it is exact */
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define LOG2_E 0x1.71547652b82fep+0
#define ROUNDING 0x1.8p52 /* adding it rounds to a whole number, which the low bits then hold */

static uint64_t bits_of(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double of_bits(uint64_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* exp(x) = result x 2^*k, with the result in 0.7 ... 1.42. Taylor's series for |r| <= ln(2) / 2: its first term left
 * out is below 2^-57. The rounding error of the reduction is added back. */
static inline double exp_parts(double x, uint64_t *k) {
    double rounded = x * LOG2_E + ROUNDING;
    double n = rounded - ROUNDING;
    double high = x - n * LN2_HIGH, low = n * LN2_LOW;
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
    *k = bits_of(rounded) - bits_of(ROUNDING);
    return 1.0 + (r + (error + r * r * p));
}

double ek_exp64(double x) {
    if (!(x >= -746.0)) return 0.0;
    uint64_t k;
    double p = exp_parts(x, &k);
    if (x >= -708.0) return p * of_bits((k + 1023) << 52);
    return p * of_bits((k + 1023 + 600) << 52) * 0x1p-600; /* the last product rounds to a subnormal number */
}

void ek_exp_all(double *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) { /* without a branch inside, so that compilers vectorize it */
        double y[16];
        int small = 0;
        for (int j = 0; j < 16; j++) small |= x[i + j] < -708.0;
        if (small) {
            for (int j = 0; j < 16; j++) x[i + j] = ek_exp64(x[i + j]);
            continue;
        }
        for (int j = 0; j < 16; j++) {
            uint64_t k;
            double p = exp_parts(x[i + j], &k);
            y[j] = p * of_bits((k + 1023) << 52);
        }
        for (int j = 0; j < 16; j++) x[i + j] = y[j];
    }
    for (; i < n; i++) x[i] = ek_exp64(x[i]);
}

/* With x = 2^k (1 + f) and s = f / (2 + f): log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...), arranged as in fdlibm's e_log.c
 * so that f, the largest part, is added last. */
double ek_log64(double x) {
    uint64_t bits = bits_of(x);
    uint64_t above = bits - 0x3fe6a09e667f3bcd; /* sqrt(1/2), so that 1 + f is in 0.707 ... 1.414 */
    int64_t k = (int64_t)(above >> 52) - (above >> 63 ? 4096 : 0);
    double f = of_bits(bits - ((uint64_t)k << 52)) - 1.0;
    double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f, n = (double)k;
    double r = 2.0 / 23.0;
    r = r * z + 2.0 / 21.0;
    r = r * z + 2.0 / 19.0;
    r = r * z + 2.0 / 17.0;
    r = r * z + 2.0 / 15.0;
    r = r * z + 2.0 / 13.0;
    r = r * z + 2.0 / 11.0;
    r = r * z + 2.0 / 9.0;
    r = r * z + 2.0 / 7.0;
    r = r * z + 2.0 / 5.0;
    r = r * z + 2.0 / 3.0;
    r = r * z;
    return n * LN2_HIGH - ((half - (s * (half + r) + n * LN2_LOW)) - f);
}

/* A product of two numbers of twice the precision (Dekker 1971). */
static void multiply(double *high, double *low, double a, double a_low, double b, double b_low) {
    double c = 134217729.0 * a, d = 134217729.0 * b;
    double a1 = c - (c - a), b1 = d - (d - b), a2 = a - a1, b2 = b - b1;
    double p = a * b, e = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2;
    e += a * b_low + a_low * b;
    *high = p + e;
    *low = e - (*high - p);
}

double ek_power(double x, uint32_t n) {
    const double most = 1e31;
    double high = 1.0, low = 0.0, base = x, base_low = 0.0;
    for (;;) {
        if (base > most) return most;
        if (n & 1) multiply(&high, &low, high, low, base, base_low);
        if (high > most) return most;
        n >>= 1;
        if (!n) return high;
        multiply(&base, &base_low, base, base_low, base, base_low);
    }
}

/* exp(x) for -80 <= x <= 0 with a relative error of about 1e-7: for sums that decide nothing. */
static inline float quick_exp(float x) {
    float rounded = x * 1.44269504f + 12582912.0f;
    float n = rounded - 12582912.0f, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = 1.0f + (r + r * r * p);
    uint32_t bits;
    __builtin_memcpy(&bits, &rounded, sizeof bits);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

double ek_sum_exp(const float *x, size_t n, float best) {
    double sum = 0.0;
    size_t i = 0;
    float lanes[16] = {0};
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) {
            float d = x[i + j] - best;
            float e = quick_exp(d > -80.0f ? d : -80.0f);
            lanes[j] += e;
        }
        if (i % 1024 == 0)
            for (int j = 0; j < 16; j++) {
                sum += (double)lanes[j];
                lanes[j] = 0.0f;
            }
    }
    for (int j = 0; j < 16; j++) sum += (double)lanes[j];
    for (; i < n; i++) {
        float d = x[i] - best;
        sum += (double)quick_exp(d > -80.0f ? d : -80.0f);
    }
    return sum;
}
