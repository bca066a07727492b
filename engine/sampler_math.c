/* exp, log and powers for the sampler, in binary64.
 *
 * Only + - x / in the order written, each rounded once: the bits are the same on every processor. Errors are below 1 ulp
 * (measured: see tests/test_engine_sampler.py), but the last bit may differ from that of a C library or of numpy. */
#include "sampler.h"

#include "sampler_exp.h"

double ek_exp64(double x) {
    if (!(x >= -746.0)) return 0.0;
    if (x >= -708.0) return ek_exp_normal(x);
    uint64_t k;
    double p = ek_exp_parts(x, &k);
    return p * ek_of_bits64((k + 1023 + 600) << 52) * 0x1p-600; /* the last product rounds to a subnormal number */
}

/* With x = 2^k (1 + f) and s = f / (2 + f): log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...), arranged as in fdlibm's e_log.c
 * so that f, the largest part, is added last. */
double ek_log64(double x) {
    uint64_t bits = ek_bits64(x);
    uint64_t above = bits - 0x3fe6a09e667f3bcd; /* sqrt(1/2), so that 1 + f is in 0.707 ... 1.414 */
    int64_t k = (int64_t)(above >> 52) - (above >> 63 ? 4096 : 0);
    double f = ek_of_bits64(bits - ((uint64_t)k << 52)) - 1.0;
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
    return n * EK_LN2_HIGH - ((half - (s * (half + r) + n * EK_LN2_LOW)) - f);
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
