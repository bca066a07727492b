/* The steps between products in plain C: quantizing, norm, softmax, SwiGLU. */
#include "kernels.h"

static void quantize_block(const float *x, size_t n, int8_t *q, float *d, float *s, int32_t *sum) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t magnitude = ek_bits(x[i]) & 0x7fffffffu;
        if (magnitude > largest) largest = magnitude;
    }
    float m = ek_float(largest), inverse = m >= 0x1p-100f ? 127.0f / m : 0.0f;
    int32_t total = 0;
    for (size_t i = 0; i < EK_BLOCK; i++) q[i] = 0;
    if (largest < 0x7f800000u) {
        for (size_t i = 0; i < n; i++) {
            q[i] = (int8_t)((x[i] * inverse + EK_MAGIC) - EK_MAGIC);
            total += q[i];
        }
        m *= 1.0f / 127.0f;
    }
    *d = m;
    *sum = total;
    *s = (float)total * m;
}

void ek_c_quantize(const float *x, size_t n, int8_t *q, float *d, float *s, int32_t *sum) {
    for (size_t at = 0; at < n; at += EK_BLOCK)
        quantize_block(x + at, n - at < EK_BLOCK ? n - at : EK_BLOCK, q + at, d++, s++, sum++);
}

void ek_c_round13(const float *x, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = ek_bits(x[i]), small = (bits & 0x7fffffffu) < 0x0d800000u; /* 2^-100 */
        out[i] = small ? 0.0f : ek_float((bits + 0x3ff + (bits >> 11 & 1)) & ~0x7ffu);
    }
}

void ek_c_norm(const float *x, const float *weight, size_t n, float epsilon, float *out) {
    float lanes[16] = {0};
    for (size_t i = 0; i < n; i++) lanes[i & 15] += x[i] * x[i];
    float scale = 1.0f / ek_sqrt(ek_tree(lanes) / (float)n + epsilon);
    for (size_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

void ek_c_softmax(float *x, size_t n, const float *scale) {
    float lanes[16] = {0}, largest = x[0];
    for (size_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    for (size_t i = 0; i < n; i++) {
        x[i] = ek_exp(x[i] - largest);
        lanes[i & 15] += x[i];
    }
    float inverse = 1.0f / ek_tree(lanes);
    for (size_t i = 0; i < n; i++) x[i] = scale ? x[i] * inverse * scale[i] : x[i] * inverse;
}

void ek_c_swiglu(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + ek_exp(-gate[i])) * up[i];
}
